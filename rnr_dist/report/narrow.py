"""A table that loses nothing where a terminal is too narrow for it.

In: what rich's `Table` takes. Out: that table, or where it would break words, its cells one below
the other, each beside its column's heading. Invariant: no cell and no heading is cut.
"""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

WORD = 12  # letters up to which a word stays whole, also in a column that folds longer ones


class WholeTable(Table):
    """A `Table` of strings and texts."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        drawn = super().__rich_console__(console, options)
        segments = [one for one in drawn if isinstance(one, Segment)]  # a table draws nothing else
        printed = set("".join(segment.text for segment in segments).split())
        if printed.issuperset(self._words(console)):
            yield from segments
        else:
            yield self._listed(console)

    def _words(self, console: Console) -> Iterator[str]:
        """The words that may not be broken."""
        for column in self.columns:
            for cell in (column.header, *column.cells):
                for word in _text(cell, console).plain.split():
                    if column.overflow != "fold" or len(word) <= WORD:
                        yield word

    def _listed(self, console: Console) -> Table:
        """Row by row, a cell a line: its heading, and what it holds in one line."""
        narrow = Table(
            title=self.title, caption=self.caption, box=self.box, show_header=False, expand=True
        )
        narrow.add_column(overflow="fold")
        narrow.add_column(overflow="fold", ratio=1)
        for row in zip(*(column.cells for column in self.columns), strict=True):
            for column, cell in zip(self.columns, row, strict=True):
                if told := _one_line(cell, console, "  "):
                    narrow.add_row(_one_line(column.header, console, " "), told)
            narrow.add_section()
        return narrow


def _text(cell: RenderableType, console: Console) -> Text:
    return cell if isinstance(cell, Text) else console.render_str(str(cell))


def _one_line(cell: RenderableType, console: Console, between: str) -> Text:
    return Text(between).join(_text(cell, console).split("\n"))
