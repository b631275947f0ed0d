"""The generator pool: many requests for many models, some engines, no barrier, nothing lost.

In: (model reference, requests). Out: responses in request order. Invariant: every request is
answered exactly once by the model that it names; what a dead engine held is issued again.
Generators may come and go meanwhile (`scaling` decides on that).
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from rnr_dist.errors import InputError, LostError
from rnr_dist.generate.requests import Request, Response, batches
from rnr_dist.types import ModelRef

logger = logging.getLogger(__name__)

MAX_ATTEMPTS = 3  # of one batch; a batch that kills three engines is the fault of the batch
RESTART_POLL_SECONDS = 1.0
# For a first place and a model that comes over the network, and for a replacement of a dead node.
START_SECONDS = 1800.0


class EngineDiedError(LostError):
    """The engine is gone or restarting; what it held must be issued again."""


class GeneratorLink(Protocol):
    """How the pool reaches one generator (a Ray actor, or a fake in tests).

    `ready` and `load` give the digests of the models that it then holds. `ready` raises
    EngineDiedError while the engine restarts and anything else when it is gone for good; `load`
    and `run` raise EngineDiedError in both cases.
    """

    async def ready(self) -> Sequence[str]: ...
    async def load(self, model: ModelRef) -> Sequence[str]: ...
    async def run(self, requests: Sequence[Request], model: str) -> list[Response]: ...


@dataclass(eq=False)  # a job is itself: equal requests do not make two jobs one
class _Job:
    """One `submit`: its model, its batches still waiting, its answers so far."""

    model: ModelRef
    requests: list[Request]
    waiting: deque[list[int]]
    answers: list[Response | None]
    finished: asyncio.Future[None]
    attempts: dict[int, int] = field(default_factory=dict)
    on_progress: Callable[[int], None] | None = None

    @property
    def missing(self) -> int:
        return sum(answer is None for answer in self.answers)


class Pool:
    """Dispatches batches to generators; one serving coroutine a generator.

    A generator keeps its models while work for them waits and takes the job with the most
    waiting batches per engine otherwise, so that concurrent candidates spread over the engines
    and weights are exchanged as rarely as possible. beside: a model is loaded beside those that
    are under way, instead of in their place once they are done.
    """

    def __init__(
        self, links: Sequence[GeneratorLink], batch: int, in_flight: int, beside: bool = False
    ):
        self._links = list(links)
        self._batch = batch
        self._in_flight = in_flight
        self._beside = beside
        self._jobs: list[_Job] = []
        self._loaded: list[set[str]] = [set() for _ in links]
        self._leaving: set[int] = set()
        self._away: set[int] = set()  # not up yet, or restarting: they hold no batch
        self._under_way = 0  # batches that a generator holds
        self._changed = asyncio.Condition()
        self._servers: list[asyncio.Task[None]] = []
        self._first_ready: asyncio.Future[None]
        self._changes: asyncio.Queue[str] = asyncio.Queue()

    async def start(self) -> None:
        """Wait for the first generator and serve from then on.

        Raises what the last generator raised when none of them comes up.
        """
        self._first_ready = asyncio.get_running_loop().create_future()
        for index in range(len(self._links)):
            self._open(index)
        await self._first_ready

    def add(self, link: GeneratorLink) -> int:
        """Serve by one generator more, once it is up; returns its number."""
        self._links.append(link)
        self._loaded.append(set())
        self._open(len(self._links) - 1)
        return len(self._links) - 1

    async def retire(self, index: int) -> None:
        """Give a generator no further batch, and return once it holds none."""
        self._leaving.add(index)
        if index in self._away:
            self._servers[index].cancel()
        async with self._changed:
            self._changed.notify_all()
        await asyncio.wait([self._servers[index]])

    def serves(self, index: int) -> bool:
        """Whether a generator takes work, or will when it is up."""
        return index not in self._leaving and not self._servers[index].done()

    @property
    def living(self) -> int:
        """Generators that take work, or will when they are up."""
        return sum(self.serves(index) for index in range(len(self._servers)))

    @property
    def batches(self) -> int:
        """Batches that wait or are under way."""
        waiting = sum(len(job.waiting) for job in self._jobs if not job.finished.done())
        return waiting + self._under_way

    def _open(self, index: int) -> None:
        server = asyncio.create_task(self._serve(index))
        server.add_done_callback(self._server_ended)
        self._servers.append(server)

    async def submit(
        self,
        model: ModelRef,
        requests: Sequence[Request],
        on_progress: Callable[[int], None] | None = None,
    ) -> list[Response]:
        """All answers in request order. `on_progress(n)` is called as n more are answered.

        Raises what a batch raised when it failed `MAX_ATTEMPTS` times, or EngineDiedError when no
        generator is left.
        """
        if not requests:
            return []
        if all(server.done() for server in self._servers):
            raise EngineDiedError("no generator is left")
        job = _Job(
            model=model,
            requests=list(requests),
            waiting=deque(batches(list(requests), self._batch)),
            answers=[None] * len(requests),
            finished=asyncio.get_running_loop().create_future(),
            on_progress=on_progress,
        )
        async with self._changed:
            self._jobs.append(job)
            self._changed.notify_all()
        try:
            await job.finished
        finally:
            self._jobs.remove(job)
        return [answer for answer in job.answers if answer is not None]

    async def next_change(self) -> str:
        """A sentence on the next generators that have come or gone, once there are some."""
        return await self._changes.get()

    def tell(self, change: str) -> None:
        """A sentence on generators that come or go, for who asks for the next."""
        self._changes.put_nowait(change)

    async def close(self) -> None:
        """Stop serving. Jobs that still wait are cancelled."""
        for server in self._servers:
            server.cancel()
        await asyncio.gather(*self._servers, return_exceptions=True)
        for job in list(self._jobs):
            if not job.finished.done():
                job.finished.set_exception(RuntimeError("the generator pool was closed"))

    def _server_ended(self, server: asyncio.Task[None]) -> None:
        """A generator that is gone for good leaves the rest to the others, if there are any."""
        if server.cancelled() or (error := server.exception()) is None:
            return
        left = self.living
        reason = (str(error).strip().splitlines() or [""])[0]
        told = (
            f"a generator is gone for good ({type(error).__name__}: {reason}); "
            f"{left} of {self._ever()} are left"
        )
        if left:
            self.tell(told)
            return
        error = error if isinstance(error, InputError) else EngineDiedError(told)
        if not self._first_ready.done():
            self._first_ready.set_exception(error)
        for job in self._jobs:
            if not job.finished.done():
                job.finished.set_exception(error)

    def _ever(self) -> int:
        """Generators that there were, but for those that were given back."""
        return len(self._servers) - len(self._leaving)

    async def _serve(self, index: int) -> None:
        link = self._links[index]
        held: set[asyncio.Task[None]] = set()
        await self._revive(index)
        while True:
            taken = await self._next(index)
            if taken is None:
                if held:
                    await asyncio.wait(held)
                return
            job, positions = taken
            if job.model.digest not in self._loaded[index]:
                if held and not self._beside:
                    await asyncio.wait(held)
                    held = set()
                if not await self._exchange(index, job, positions):
                    continue
            held.add(asyncio.create_task(self._answer(index, link, job, positions)))
            if len(held) >= self._in_flight:
                _, held = await asyncio.wait(held, return_when=asyncio.FIRST_COMPLETED)
            if not self._loaded[index]:  # the engine died under one of them
                if held:
                    await asyncio.wait(held)
                    held = set()
                await self._revive(index)

    async def _next(self, index: int) -> tuple[_Job, list[int]] | None:
        """The next batch for this generator; waits for one. None for one that shall leave."""
        async with self._changed:
            while index not in self._leaving:
                waiting = [job for job in self._jobs if job.waiting and not job.finished.done()]
                if waiting:
                    mine = [job for job in waiting if job.model.digest in self._loaded[index]]
                    job = (mine or sorted(waiting, key=self._urgency, reverse=True))[0]
                    self._under_way += 1
                    return job, job.waiting.popleft()
                await self._changed.wait()
        return None

    def _urgency(self, job: _Job) -> float:
        return len(job.waiting) / (1 + sum(job.model.digest in held for held in self._loaded))

    async def _exchange(self, index: int, job: _Job, positions: list[int]) -> bool:
        """Load the job's model; on failure give the batch back."""
        kept = self._loaded[index] if self._beside else set()
        self._loaded[index] = kept | {job.model.digest}  # announced first, so that others spread
        try:
            self._loaded[index] = set(await self._links[index].load(job.model))
        except Exception as error:
            self._loaded[index] = set()
            self._under_way -= 1
            # An engine that died while it loaded says nothing about the batch.
            counts = not isinstance(error, EngineDiedError)
            await self._give_back(job, positions, error, counts)
            await self._revive(index)
            return False
        return True

    async def _answer(
        self, index: int, link: GeneratorLink, job: _Job, positions: list[int]
    ) -> None:
        try:
            answers = await link.run([job.requests[p] for p in positions], job.model.digest)
            if [answer.model for answer in answers] != [job.model.digest] * len(positions):
                raise RuntimeError("answers of another model, or too few or too many")
        except Exception as error:
            self._loaded[index] = set()  # whether it lives and what it holds is asked again
            await self._give_back(job, positions, error)
            return
        finally:
            self._under_way -= 1
        fresh = 0
        for position, answer in zip(positions, answers, strict=True):
            if job.answers[position] is None:  # a duplicate after a re-issue counts once
                job.answers[position] = answer
                fresh += 1
        if job.on_progress and fresh:
            job.on_progress(fresh)
        if not job.missing and not job.finished.done():
            job.finished.set_result(None)

    async def _give_back(
        self, job: _Job, positions: list[int], error: Exception, counts: bool = True
    ) -> None:
        """The one place that retries: the batch waits again, or its job fails for good."""
        first = positions[0]
        job.attempts[first] = job.attempts.get(first, 0) + counts
        logger.warning("a batch of %d requests is issued again: %s", len(positions), error)
        if job.attempts[first] >= MAX_ATTEMPTS:
            if not job.finished.done():
                job.finished.set_exception(error)
            return
        async with self._changed:
            job.waiting.appendleft(positions)
            self._changed.notify_all()

    async def _revive(self, index: int) -> None:
        """Wait until the generator answers (again) and learn which models it holds.

        Raises what it raised when it is gone for good, EngineDiedError after `START_SECONDS`.
        """
        self._away.add(index)
        try:
            async with asyncio.timeout(START_SECONDS):
                while index not in self._leaving and not await self._back(index):
                    await asyncio.sleep(RESTART_POLL_SECONDS)
        except TimeoutError:
            raise EngineDiedError(
                f"it has not answered for {START_SECONDS / 60:.0f} min: expected a machine with "
                "room for it (`ray status` says what is taken)"
            ) from None
        finally:
            self._away.discard(index)
        if not self._first_ready.done():
            self._first_ready.set_result(None)

    async def _back(self, index: int) -> bool:
        """Whether the generator answers now."""
        try:
            self._loaded[index] = set(await self._links[index].ready())
        except EngineDiedError as error:
            logger.warning("generator %d is not there: %s", index, error)
            return False
        return True
