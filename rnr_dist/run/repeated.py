"""Something that is looked at all the while that a block runs."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def repeated(act: Callable[[], None], seconds: float, name: str) -> Iterator[None]:
    """Call `act` in a thread of that name, at once and every so many seconds, until the block ends;
    at least once, and no more after it."""
    ended = threading.Event()

    def watch() -> None:
        while True:
            act()
            if ended.wait(seconds):
                return

    watcher = threading.Thread(target=watch, daemon=True, name=name)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
