"""Progress bars on the terminal, plain lines where there is none."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

console = Console(stderr=True)


def say(text: str) -> None:
    """One line on what happens now, with the time of day."""
    # Not wrapped and not read as markup: it may hold paths and generated instructions.
    console.print(
        f"{time.strftime('%H:%M:%S')} {text}", highlight=False, markup=False, soft_wrap=True
    )


@contextlib.contextmanager
def progress_bar(describe: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar; call the yielded function with how much is done so far."""
    if not sys.stderr.isatty():
        began = time.monotonic()
        yield lambda done: None
        say(f"{describe}: {total} in {time.monotonic() - began:.0f} s")
        return
    columns = [
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    ]
    with Progress(*columns, console=console, transient=False) as progress:
        task = progress.add_task(describe, total=total)
        yield lambda done: progress.update(task, completed=done)
