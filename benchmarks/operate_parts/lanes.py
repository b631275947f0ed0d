"""A search of real code in simulated time: processes are lanes, whose work is measured and charged.

In: how much a lane's work is charged, as a multiple of what it takes here. Out: the share of the
list-scheduling optimum. Invariant: a lane does one thing at a time and everything that it does
moves its own clock by the time that was measured; waiting costs nothing.

The search's loop, the pool and the bandit run in one event loop, each in a lane. What one asks of
another is begun in the other's lane, as a message to another process is.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import itertools
import tempfile
import time
import zlib
from collections import defaultdict
from collections.abc import Awaitable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import numpy as np

from benchmarks.reveal_parts.simulated import (
    BASE,
    HashEmbedder,
    latency_of,
    list_schedule,
    prepared,
    said_of,
    task_of,
)
from rnr_dist.config.schema import Config
from rnr_dist.generate.pool import Pool
from rnr_dist.generate.requests import Request, Response
from rnr_dist.reveal import bandit_actor
from rnr_dist.reveal.bandit_actor import BanditActor
from rnr_dist.reveal.history import History
from rnr_dist.reveal.search import Listeners, inner_loop
from rnr_dist.reveal.setting import Setting
from rnr_dist.reveal.table import arm_table
from rnr_dist.types import Context, ModelRef

Found = TypeVar("Found")
WIDTH = 384  # of an embedding, as the default embedder has it
DRIVER, POOL, BANDIT, FREE = "driver", "pool", "bandit", "free"
lane: contextvars.ContextVar[str] = contextvars.ContextVar("lane", default=FREE)


class LaneLoop(asyncio.AbstractEventLoop):
    """An event loop whose time is simulated. charges: by lane, what a measured second counts."""

    def __init__(self, charges: Mapping[str, float]):
        self._charges = charges
        self._now = 0.0
        self._beside = 0.0  # seconds of the work now done that another core has done
        self._free: dict[str, float] = defaultdict(float)  # when each lane has ended its work
        self.worked: dict[str, float] = defaultdict(float)  # charged seconds by lane
        self._queue: list[tuple[float, int, asyncio.Handle, str]] = []
        self._fresh: list[tuple[float, asyncio.Handle, str]] = []  # what the work now done begins
        self._order = itertools.count()

    def time(self) -> float:
        return self._now

    def call_soon(self, callback: Any, *args: Any, context: Any = None) -> asyncio.Handle:
        return self.call_at(self._now, callback, *args, context=context)

    def call_later(
        self, delay: float, callback: Any, *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Any, *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        context = context or contextvars.copy_context()
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._fresh.append((when - self._now, handle, context.get(lane, FREE)))
        return handle

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, **named: Any) -> asyncio.Task[Any]:
        return asyncio.Task(coro, loop=self, **named)

    async def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:
        """On a core of its own: the answer comes after the time that it took."""
        began = time.thread_time()
        answer = func(*args)
        took = time.thread_time() - began
        self._beside += took
        await asyncio.sleep(took)
        return answer

    def get_debug(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        raise RuntimeError(context["message"]) from context.get("exception")

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Its turn passes."""

    def run_until_complete(self, future: Any) -> Any:
        asyncio._set_running_loop(self)
        try:
            task = self.create_task(future)
            self._schedule(0.0)
            while not task.done():
                self._turn()
        finally:
            asyncio._set_running_loop(None)
        return task.result()

    def _turn(self) -> None:
        when, order, handle, where = heapq.heappop(self._queue)
        if handle.cancelled():
            return
        if where != FREE and self._free[where] > when:  # its lane is at work: later
            heapq.heappush(self._queue, (self._free[where], order, handle, where))
            return
        self._now, self._beside, began = when, 0.0, time.thread_time()
        handle._run()
        seconds = 0.0
        if where != FREE:
            took = time.thread_time() - began - self._beside
            seconds = took * self._charges.get(where, 1.0)
            self.worked[where] += seconds
            self._free[where] = when + seconds
        self._schedule(when + seconds)

    def _schedule(self, now: float) -> None:
        """What was begun is due from now on, when its beginner is done."""
        for delay, handle, where in self._fresh:
            heapq.heappush(self._queue, (now + delay, next(self._order), handle, where))
        self._fresh.clear()


def asked(where: str, work: Coroutine[Any, Any, Found]) -> Awaitable[Found]:
    """What a lane answers, to be awaited in another."""
    context = contextvars.copy_context()
    context.run(lane.set, where)
    return asyncio.get_running_loop().create_task(work, context=context)


class Link:
    """A generator that pretends, as the pool sees it."""

    def __init__(self, log: list[tuple[float, float]]):
        self._log = log

    async def ready(self) -> list[str]:
        return [BASE.digest]

    async def load(self, model: ModelRef) -> list[str]:
        return [model.digest]

    async def run(self, requests: Sequence[Request], model: str) -> list[Response]:
        return await asked(FREE, self._answer(requests, model))

    async def _answer(self, requests: Sequence[Request], model: str) -> list[Response]:
        latency = latency_of(requests)
        self._log.append((asyncio.get_running_loop().time(), latency))
        await asyncio.sleep(latency)
        return said_of(requests, model)


class LanePool:
    """The pool in its lane."""

    def __init__(self, config: Config, log: list[tuple[float, float]]):
        links = [Link(log) for _ in range(config.engines.count)]
        self.pool = Pool(links, config.engines.batch, config.engines.in_flight)

    def submit(self, model: ModelRef, requests: Sequence[Request]) -> Awaitable[list[Response]]:
        return asked(POOL, self.pool.submit(model, requests))


class LaneBandit:
    """The bandit's actor in its lane."""

    def __init__(self, actor: BanditActor):
        self._actor = actor

    def __getattr__(self, method: str) -> Any:
        return lambda *given: asked(BANDIT, getattr(self._actor, method)(*given))


class FreeScorer:
    """Oracle and embedder on cores of their own, who answer at once."""

    version = "profanity"

    def __init__(self) -> None:
        self._embedder = HashEmbedder(WIDTH)

    def submit_score(self, texts: list[str], responses: list[str]) -> Awaitable[np.ndarray]:
        drawn = [zlib.crc32(response.encode()) / 2**32 for response in responses]
        return asked(FREE, self._now(np.array, drawn))

    def submit_embed(self, texts: list[str]) -> Awaitable[np.ndarray]:
        return asked(FREE, self._now(self._embedder.embed, texts))

    @staticmethod
    async def _now(work: Any, *given: Any) -> np.ndarray:
        return np.asarray(work(*given))


def simulated(
    config: Config, contexts: list[Context], charges: Mapping[str, float]
) -> dict[str, Any]:
    """`efficiency`, and milliseconds that each lane was charged a pull."""
    from threadpoolctl import threadpool_limits

    log: list[tuple[float, float]] = []
    ends: list[float] = []
    loop = LaneLoop(charges)
    pulls = config.reveal.budget
    with tempfile.TemporaryDirectory() as name, threadpool_limits(1, user_api="blas"):
        folder = Path(name)
        prepared(folder, config, 2000, WIDTH)
        pool = LanePool(config, log)
        tokenizer = SimpleNamespace(
            encode=lambda text, add_special_tokens=True: list(text.encode()),
        )
        bench: Any = SimpleNamespace(
            config=config, base=BASE, endpoint=pool, scorer=FreeScorer(), tokenizer=tokenizer
        )
        setting = Setting(bench, task_of(contexts), folder)
        table, history = arm_table(setting), History(folder, config.reveal, WIDTH)
        heard = Listeners(on_pull=lambda number, figures: ends.append(loop.time()))

        async def searched() -> None:
            actor = BanditActor(table.features, config.reveal, config.seed)
            await asked(POOL, pool.pool.start())
            driven = inner_loop(setting, table, history, LaneBandit(actor), 1, heard)  # type: ignore[arg-type]
            await asked(DRIVER, driven)
            await asked(POOL, pool.pool.close())
            await actor.next_outer({}, 0)  # which waits for a training that goes on

        with simulated_clock(loop):
            loop.run_until_complete(searched())
    log = sorted(entry for entry in log if entry[0] <= ends[-1])[:pulls]
    optimum = list_schedule([latency for _, latency in log], config.engines.count)
    return {
        "efficiency": optimum / (ends[-1] - log[0][0]),
        **{name: 1000 * loop.worked[name] / pulls for name in (DRIVER, POOL, BANDIT)},
    }


@contextmanager
def simulated_clock(loop: LaneLoop) -> Iterator[None]:
    """The bandit rests between trainings by the simulated time."""
    real = bandit_actor.time
    bandit_actor.time = SimpleNamespace(monotonic=loop.time)  # type: ignore[assignment]
    try:
        yield
    finally:
        bandit_actor.time = real
