"""Many callers, one scoring actor: what arrives while it works is asked together.

In: lists of items from concurrent callers. Out: to each, the rows of its own items. Invariant: a
caller's items that the actor cannot answer are that caller's error alone. A `Gate` makes a group of
callers that would come one by one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

import numpy as np

Item = TypeVar("Item")

TOGETHER = 1024  # items of one call, unless a single caller brings more
LINGER = 0.1  # seconds that a caller waits at a gate, at most


class Gather(Generic[Item]):
    """`await gather(items)` is `await ask(items)`, with fewer and larger calls under load.

    ask: an array with one row an item. One call is under way at a time, so a slow actor is asked
    for ever more at once and an idle one at once. Belongs to one event loop.
    """

    def __init__(self, ask: Callable[[list[Item]], Awaitable[np.ndarray]]):
        self._ask = ask
        self._waiting: deque[tuple[list[Item], asyncio.Future[np.ndarray]]] = deque()
        self._asking: asyncio.Task[None] | None = None

    async def __call__(self, items: Sequence[Item]) -> np.ndarray:
        """Rows of these items. Raises what the actor raised when it was asked for them alone."""
        answer: asyncio.Future[np.ndarray] = asyncio.get_running_loop().create_future()
        self._waiting.append((list(items), answer))
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._serve())
        return await answer

    async def _serve(self) -> None:
        while self._waiting:
            callers = [self._waiting.popleft()]
            held = len(callers[0][0])
            while self._waiting and held + len(self._waiting[0][0]) <= TOGETHER:
                callers.append(self._waiting.popleft())
                held += len(callers[-1][0])
            if len(callers) == 1 or not await self._answer_all(callers, held):
                for items, answer in callers:
                    await self._answer_one(items, answer)

    async def _answer_all(
        self, callers: list[tuple[list[Item], asyncio.Future[np.ndarray]]], held: int
    ) -> bool:
        """Whether one call answered all; if not, who is to blame is found one by one."""
        try:
            rows = np.asarray(await self._ask([item for items, _ in callers for item in items]))
        except Exception:
            return False
        if rows.ndim == 0 or len(rows) != held:
            return False
        first = 0
        for items, answer in callers:
            if not answer.done():  # its caller may have been cancelled
                answer.set_result(rows[first : first + len(items)])
            first += len(items)
        return True

    async def _answer_one(self, items: list[Item], answer: asyncio.Future[np.ndarray]) -> None:
        if answer.done():
            return
        try:
            rows = await self._ask(items)
        except Exception as error:
            if not answer.done():
                answer.set_exception(error)
            return
        if not answer.done():
            answer.set_result(rows)


class Gate:
    """Lets callers through in groups, so that what each group costs is paid once for all in it.

    Fewer than enough wait `LINGER` seconds. Belongs to one event loop.
    """

    def __init__(self) -> None:
        self._waiting: list[asyncio.Future[None]] = []
        self._opens: asyncio.TimerHandle | None = None

    async def passed(self, enough: int) -> None:
        """Wait until so many wait; a caller that gives up leaves the others where they are."""
        if enough < 2 and not self._waiting:
            return
        loop = asyncio.get_running_loop()
        self._waiting.append(mine := loop.create_future())
        if len(self._waiting) >= enough:
            self._open()
        elif self._opens is None:
            self._opens = loop.call_later(LINGER, self._open)
        await mine

    def _open(self) -> None:
        if self._opens:
            self._opens.cancel()
        waiting, self._waiting, self._opens = self._waiting, [], None
        for caller in waiting:
            if not caller.done():
                caller.set_result(None)
