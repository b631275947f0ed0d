"""The last words of a command: what came out, what the rows are, where to look, what to type next.

In: a run directory. Out: lines for the terminal. Invariant: nothing is computed that its files do
not hold; commands can be pasted as they stand.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text

from rnr_dist.config.secrets import typed, without_secrets
from rnr_dist.report.summary import Summary, read_summary
from rnr_dist.report.verdict import rows_explained, verdict
from rnr_dist.run.shown import shown

WIDEST = 24  # characters of a name before what it is
UI = "http://127.0.0.1:5000/"  # where `rnr ui` shows the database beside the runs


@dataclass(frozen=True)
class Command:
    """What was called: its name, config and overrides, and where it went."""

    name: str
    config: Path
    options: tuple[str, ...]
    run: Path


def close(command: Command, server: str, page: str, console: Console) -> None:
    """Print them. server: the config's tracking server, or empty; page: the run's below it."""
    path = command.run / "summary.json"
    summary = read_summary(path) if path.exists() else None
    result = [*_rows(summary), f"Result: {shown(verdict(summary))}"] if summary else []
    for line in (*result, *_where(command, server, page), *_next(command, summary)):
        # As it stands, to be pasted: spaces, and what follows the # of an address.
        console.print(Text(line), soft_wrap=True)


def _rows(summary: Summary) -> Iterator[str]:
    """What each row of the tables is. Lines, of which a terminal cuts no name."""
    rows = list(rows_explained(summary.rows, summary.reference))
    width = min(WIDEST, max(len(label) for label, _ in rows))
    for label, told in rows:
        yield f"{shown(label):<{width}}  {shown(told)}"


def _where(command: Command, server: str, page: str) -> Iterator[str]:
    if not page:
        return
    if server.startswith(("http:", "https:")):
        yield f"MLflow: {without_secrets(server).rstrip('/')}/{page}"
    elif not server:
        ui = typed("rnr", "ui", "--runs", command.run.parent)
        yield f"MLflow: {UI}{page} (after: {ui})"


def _next(command: Command, summary: Summary | None) -> Iterator[str]:
    """What one would do now: look at the result, hand it over, or go on."""
    run, config = command.run, command.config
    go_on = (config, *command.options, "--resume", run)
    if summary is None:
        yield f"Next: {typed('rnr', 'run', *go_on)}"
        return
    yield f"Next: {typed('rnr', 'compare', run, 'The weather today is')}"
    yield f"      {typed('rnr', 'export', run, '--adapter', run.name + '-adapter')}"
    if command.name != "baselines":
        yield f"      {typed('rnr', 'baselines', *go_on)}"
