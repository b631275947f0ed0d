"""Progress bars on the terminal, plain lines where there is none."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from rnr_dist.run.shown import shown

console = Console(stderr=True, markup=False, emoji=False)
LINE_SECONDS = 60.0  # between lines of a bar where there is no terminal
_live = threading.Lock()  # a terminal has one place for bars


def say(text: str) -> None:
    """One line on what happens now, with the time of day."""
    # Not wrapped, not read as markup, not obeyed: it may hold paths and generated instructions.
    console.print(f"{time.strftime('%H:%M:%S')} {shown(text)}", highlight=False, soft_wrap=True)


class Advance(Protocol):
    """Tells a bar how much is done so far, and what else is worth knowing."""

    def __call__(self, done: int, note: str = "") -> None: ...


@contextlib.contextmanager
def progress_bar(describe: str, total: int) -> Iterator[Advance]:
    """A bar; call the yielded function with how much is done so far.

    Where there is no terminal, as in a job's log, or another bar is on it: a line a minute at most
    while something gets done, and one at its end.
    """
    if not (sys.stderr.isatty() and _live.acquire(blocking=False)):
        began, last, reached = time.monotonic(), "", total
        told = began

        def remember(done: int, note: str = "") -> None:
            nonlocal last, told, reached
            reached = done
            last = note and f" ({note})"
            if time.monotonic() - told >= LINE_SECONDS and done < total:
                told = time.monotonic()
                say(f"{describe}: {done} of {total}{last}")

        yield remember
        part = "" if reached == total else f"{reached} of "
        say(f"{describe}: {part}{total} in {time.monotonic() - began:.0f} s{last}")
        return
    columns = [
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    ]
    try:
        with Progress(*columns, console=console, transient=False) as progress:
            task = progress.add_task(shown(describe), total=total, note="")

            def advance(done: int, note: str = "") -> None:
                progress.update(task, completed=done, note=shown(note))

            yield advance
    finally:
        _live.release()
