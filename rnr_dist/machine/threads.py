"""Independent pieces of work that mostly wait for Ray, side by side in threads of the driver."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeVar

Piece = TypeVar("Piece")
Outcome = TypeVar("Outcome")


def side_by_side(
    work: Callable[[Piece], Outcome], pieces: Sequence[Piece], at_once: int
) -> list[Outcome]:
    """`work` of every piece, in their order, `at_once` of them at the same time.

    Each runs in a copy of the caller's context. Raises what the first piece of those that failed
    raised; what had not begun stays undone. One at a time runs in the caller's own thread.
    """
    if at_once == 1:
        return [work(piece) for piece in pieces]
    threads = ThreadPoolExecutor(at_once)
    try:
        under_way = [threads.submit(copy_context().run, work, piece) for piece in pieces]
        return [each.result() for each in under_way]
    finally:
        threads.shutdown(wait=False, cancel_futures=True)


def apart(work: Callable[[], Outcome]) -> Outcome:
    """`work()` in a thread of its own, in a copy of the caller's context.

    For what would take over the driver's signals in the main thread and not give them back: Tune
    ends a search at Ctrl-C as if it were done, and Ray Train ends the driver with exit code 0. Here
    an interrupt reaches the caller, who ends Ray and with it the work.
    """
    outcome: Future[Outcome] = Future()
    context = copy_context()

    def run() -> None:
        try:
            outcome.set_result(context.run(work))
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return outcome.result()
