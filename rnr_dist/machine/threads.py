"""Independent pieces of work that mostly wait for Ray, side by side in threads of the driver."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
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
