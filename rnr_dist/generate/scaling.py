"""How many generators a pool has: between `engines.count` and `engines.most`, by work and by room.

In: a pool, and a `Ground` on which generators start and end. Out: the pool grows while it has more
to do than its generators hold, and gives back what has nothing to do, or no room any more.
Invariant: those of the start are never given back, and nothing is ended that holds a batch.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Protocol

from rnr_dist.generate.pool import GeneratorLink, Pool


@dataclass(frozen=True)
class Limits:
    """least, most: generators. in_flight: batches that keep one busy. idle_seconds: how long work
    must have been less than the generators can take before one is given back."""

    least: int
    most: int
    in_flight: int
    idle_seconds: float

    def busy(self, batches: int) -> int:
        """Generators that so many batches keep busy, within the bounds."""
        return min(self.most, max(self.least, math.ceil(batches / self.in_flight)))


class Ground(Protocol):
    """Where generators live (a Ray cluster, or a fake in tests)."""

    async def room(self) -> int:
        """Generators that fit, those that live included, beside all else that the run needs."""
        ...

    async def free(self) -> int:
        """Generators that could start now."""
        ...

    async def want(self, generators: int) -> None:
        """Ask an autoscaler, where there is one, for room for so many in all; 0: for nothing."""
        ...

    def start(self, number: int) -> GeneratorLink: ...

    async def end(self, link: GeneratorLink) -> None: ...


@dataclass
class Scaler:
    """Call `step` every second or so."""

    pool: Pool
    ground: Ground
    limits: Limits
    _added: dict[int, GeneratorLink] = field(default_factory=dict)
    _busy: deque[tuple[float, int]] = field(default_factory=deque)
    _wanted: int = -1  # of the autoscaler; what a killed run has asked for is taken back at first
    _held_until: float = 0.0
    _started: int = 0

    async def step(self, now: float) -> None:
        """Grow, or give back, as things stand at `now`, seconds of a clock that only goes on."""
        await self._forget_lost()
        wanted = self.limits.busy(self.pool.batches)
        self._busy.append((now, wanted))
        while self._busy[0][0] < now - self.limits.idle_seconds:
            self._busy.popleft()
        lasting = max(count for _, count in self._busy)
        room = max(self.limits.least, await self.ground.room())
        await self._tell_autoscaler(lasting)
        if wanted > self.pool.living and now >= self._held_until:
            await self._grow(min(wanted, room) - self.pool.living)
        elif min(lasting, room) < self.pool.living:
            await self._shrink(min(lasting, room), "room" if room < lasting else "work")

    async def give_back(self, now: float) -> None:
        """Leave the room of all that were added to what comes now: nothing grows for a while."""
        self._held_until = now + self.limits.idle_seconds
        await self._shrink(self.limits.least, "a training")

    async def close(self) -> None:
        """End those that were added, and give up what was asked of an autoscaler."""
        await self._tell_autoscaler(0)
        while self._added:
            _, link = self._added.popitem()
            await self.ground.end(link)

    async def _grow(self, missing: int) -> None:
        more = min(missing, await self.ground.free()) if missing > 0 else 0
        for _ in range(more):
            link = self.ground.start(self.limits.least + self._started)
            self._started += 1
            self._added[self.pool.add(link)] = link
        if more:
            self.pool.tell(f"{more} generator(s) more, as requests wait: {self.pool.living} now")

    async def _shrink(self, count: int, why: str) -> None:
        """The newest go first."""
        reason = {"work": "nothing to do", "room": "no room left"}.get(why, f"room for {why}")
        gone = 0
        while self._added and self.pool.living > count:
            index, link = self._added.popitem()
            await self.pool.retire(index)
            await self.ground.end(link)
            gone += 1
        if gone:
            self.pool.tell(f"{gone} generator(s) given back ({reason}): {self.pool.living} now")

    async def _forget_lost(self) -> None:
        """A lost one is not started again here: the pool grows anew when there is room."""
        for index in [index for index in self._added if not self.pool.serves(index)]:
            await self.ground.end(self._added.pop(index))

    async def _tell_autoscaler(self, count: int) -> None:
        wanted = count if count > self.limits.least else 0
        if wanted != self._wanted:
            await self.ground.want(wanted)
            self._wanted = wanted
