"""A table that loses nothing where a terminal is too narrow for it.

In: what rich's `Table` takes. Out: that table; where rich would break words, with columns of other
widths; where no widths do, its cells one below the other, each beside its heading. Invariant: no
cell and no heading is cut.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import replace

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.segment import Segment
from rich.table import Column, Table
from rich.text import Text

WORD = 12  # letters up to which a word stays whole, also in a column that folds longer ones
ANY_WIDTH = 10**4  # columns of a terminal, more than any table needs


class WholeTable(Table):
    """A `Table` of strings and texts."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        drawn = super().__rich_console__(console, options)
        segments = [one for one in drawn if isinstance(one, Segment)]  # a table draws nothing else
        printed = set("".join(one.text for one in segments).split())
        words = [_words(column, console) for column in self.columns]
        if printed.issuperset(word for column in words for word in column):
            yield from segments
        elif widths := self._widths(words, console, options):
            yield from Table.__rich_console__(self._of(widths), console, options)
        else:
            yield self._listed(console)

    def _widths(
        self, words: Iterable[Sequence[str]], console: Console, options: ConsoleOptions
    ) -> list[int]:
        """Widths of columns that break none of the words; none where there is no room for them."""
        wide = options.update(width=ANY_WIDTH)
        widths = [max(map(len, column), default=1) for column in words]
        wanted = [
            max(Measurement.get(console, wide, one).maximum for one in _texts(column))
            for column in self.columns
        ]
        room = options.max_width - Measurement.get(console, wide, self._of(widths)).minimum
        if room < 0:
            return []
        for _ in range(room):  # to the column that lacks most
            lacks = [want - width for want, width in zip(wanted, widths, strict=True)]
            widths[lacks.index(max(lacks))] += max(lacks) > 0
        return widths

    def _of(self, widths: Sequence[int]) -> Table:
        """The same table with columns of these widths."""
        table = copy(self)
        # With collapsed padding rich 15 forgets the first column's left one in fixed widths.
        left = self.padding[3] if self.collapse_padding else 0
        table.columns = [
            replace(column, width=width + left * (not place), min_width=None)
            for place, (column, width) in enumerate(zip(self.columns, widths, strict=True))
        ]
        return table

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


def _texts(column: Column) -> list[RenderableType]:
    return [column.header, *column.cells]


def _words(column: Column, console: Console) -> list[str]:
    """The words of a column, each up to where it may be broken."""
    words = [word for one in _texts(column) for word in _text(one, console).plain.split()]
    return [word for word in words if column.overflow != "fold" or len(word) <= WORD]


def _text(cell: RenderableType, console: Console) -> Text:
    return cell if isinstance(cell, Text) else console.render_str(str(cell))


def _one_line(cell: RenderableType, console: Console, between: str) -> Text:
    return Text(between).join(_text(cell, console).split("\n"))
