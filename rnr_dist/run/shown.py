"""Texts that others wrote (models, data, file names) as a person is shown them.

In: any text. Out: one that a terminal, a Markdown page or a spreadsheet shows and does not obey.
Invariant: no control character, no direction mark and no secret of the environment gets through.
"""

from __future__ import annotations

import re

from rich.console import Console

from rnr_dist.config.secrets import without_secrets

UNKNOWN = "�"
# What makes a cell a formula for Excel, LibreOffice or Google Sheets, in full width too.
FORMULA = tuple("=+-@\t\r\n＝＋－＠")
# An underscore within a word stands for itself.
_MARKDOWN = re.compile(r"([\\`*\[\]<>|&#]|(?<![^\W_])_|_(?![^\W_]))")


def shown(text: str) -> str:
    """`text` in one line: nothing in it moves the cursor, colours, or turns the reading direction.

    Addresses lose user, password and query.
    """
    return "".join(map(_plain, without_secrets(text)))


def in_markdown(text: str) -> str:
    """`text` in one line of Markdown or HTML, as it stands."""
    return _MARKDOWN.sub(r"\\\1", " ".join(shown(text).split()))


def cell(text: str) -> str:
    """`text` for a cell of a CSV file; an apostrophe before it where a spreadsheet would compute.

    Lines stay lines.
    """
    lines = ["".join(map(_plain, line)) for line in text.splitlines()]
    kept = "\n".join(lines)
    return f"'{kept}" if text.startswith(FORMULA) or kept.startswith(FORMULA) else kept


def terminal() -> Console:
    """Where reports are printed: brackets and colons in them are no markup and no pictures."""
    return Console(markup=False, emoji=False)


def _plain(char: str) -> str:
    return char if char.isprintable() else " " if char.isspace() else UNKNOWN
