"""The pool on Ray: one actor owns it, everyone holds a small picklable handle.

In: a config and a base model. Out: a `PoolHandle` inside a `with` block. Invariant: when the block
ends, for whatever reason, the engines' processes have been ended before their actors.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rnr_dist.config.engines import Engines
from rnr_dist.config.evaluation import Tracking
from rnr_dist.config.schema import Config
from rnr_dist.generate.actor import Generator, actor_options
from rnr_dist.generate.pool import EngineDiedError, GeneratorLink, Pool
from rnr_dist.generate.requests import Request, Response
from rnr_dist.generate.scaling import Limits, Scaler
from rnr_dist.machine.actors import started
from rnr_dist.machine.cluster import joined_nodes
from rnr_dist.machine.placement import ALMOST, Node, asked_of, engines_of, generators_with_room
from rnr_dist.run.progress import progress_bar, say
from rnr_dist.types import ModelRef

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.5
SHUTDOWN_SECONDS = 5.0  # for each step of an ending; what takes longer is killed
SCALE_SECONDS = 2.0  # between two looks at what the pool has to do and the cluster room for


class RayLink:
    """A generator actor as the pool sees it: Ray's actor errors become EngineDiedError."""

    def __init__(self, handle: Any):
        self._handle = handle

    async def end(self) -> None:
        """The engine first: a killed actor leaves its engine behind for a while."""
        with contextlib.suppress(ray.exceptions.RayError, TimeoutError):
            async with asyncio.timeout(SHUTDOWN_SECONDS):
                await self._handle.shutdown.remote()
        ray.kill(self._handle)

    async def ready(self) -> Sequence[str]:
        try:
            return await self._handle.ready.remote()
        except ray.exceptions.ActorUnavailableError as error:
            raise EngineDiedError("the generator actor is restarting") from error
        except ray.exceptions.RayTaskError as error:
            raise _cause(error) from None

    async def load(self, model: ModelRef) -> Sequence[str]:
        return await self._call("load", model)

    async def run(self, requests: Sequence[Request], model: str) -> list[Response]:
        return await self._call("run", list(requests), model)

    async def _call(self, method: str, *arguments: Any) -> Any:
        try:
            return await getattr(self._handle, method).remote(*arguments)
        except ray.exceptions.RayActorError as error:
            raise EngineDiedError("the generator actor is restarting or gone") from error
        except ray.exceptions.RayTaskError as error:
            raise _cause(error) from None


def _cause(error: Any) -> Exception:
    """What the actor raised, as it raised it."""
    return error.cause if isinstance(error.cause, Exception) else error


@dataclass(frozen=True)
class Kind:
    """What a generator is made of. made_of: its class, `Generator` but in benchmarks and tests."""

    config: Config
    base: ModelRef
    made_of: type = Generator

    def start(self, number: int, **options: Any) -> Any:
        """The handle of a new actor; its engine starts meanwhile."""
        engines = self.config.engines
        return (
            ray.remote(self.made_of)
            .options(**{**actor_options(engines), **options})
            .remote(engines, self.base, number, self.config.trust_remote_code)
        )


class RayGround:
    """The cluster as the scaler sees it (`scaling.Ground`)."""

    def __init__(self, kind: Kind):
        self._kind = kind
        self._one = engines_of(kind.config)
        self._nodes: list[Node] = []
        self._room = 0

    async def room(self) -> int:
        nodes = await asyncio.to_thread(joined_nodes)
        if nodes != self._nodes:
            self._nodes, self._room = nodes, generators_with_room(self._kind.config, nodes)
        return self._room

    async def free(self) -> int:
        left = await asyncio.to_thread(ray.available_resources)
        return int(left.get(self._one.kind, 0.0) / self._one.each + ALMOST)

    async def want(self, generators: int) -> None:
        """Nothing comes of it where the cluster has no autoscaler."""
        from ray.autoscaler.sdk import request_resources

        bundles = asked_of(self._kind.config, generators) if generators else []
        await asyncio.to_thread(request_resources, bundles=bundles)

    def start(self, number: int) -> GeneratorLink:
        """One that dies is not started again: the pool grows anew where there is room."""
        return RayLink(self._kind.start(number, max_restarts=0))

    async def end(self, link: GeneratorLink) -> None:
        if isinstance(link, RayLink):
            await link.end()


class PoolActor:
    """The pool's Ray actor: drivers, trials and the bandit all submit to it.

    kind: what the pool grows by; None for one that stays as it is.
    """

    def __init__(self, generators: Sequence[Any], engines: Engines, kind: Kind | None = None):
        links = [RayLink(generator) for generator in generators]
        self._pool = Pool(links, engines.batch, engines.in_flight, beside=engines.weights == "lora")
        self._answered: dict[str, int] = {}
        self._scaling: asyncio.Task[None] | None = None
        bounds = engines.count, engines.greatest
        limits = Limits(*bounds, engines.in_flight, engines.idle_seconds)
        self._scaler = Scaler(self._pool, RayGround(kind), limits) if kind else None

    async def start(self) -> None:
        await self._pool.start()
        if self._scaler:
            self._scaling = asyncio.create_task(self._scale(self._scaler))

    async def _scale(self, scaler: Scaler) -> None:
        while True:
            try:
                await scaler.step(time.monotonic())
            except ray.exceptions.RayError as error:  # the cluster is asked again
                logger.warning("the pool stays as it is: %s", error)
            await asyncio.sleep(SCALE_SECONDS)

    async def give_back(self) -> None:
        """End the generators that were added: what comes now needs their room."""
        if self._scaler:
            await self._scaler.give_back(time.monotonic())

    async def submit(
        self, model: ModelRef, requests: Sequence[Request], job: str = ""
    ) -> list[Response]:
        def count(fresh: int) -> None:
            self._answered[job] = self._answered.get(job, 0) + fresh

        try:
            return await self._pool.submit(model, requests, count if job else None)
        finally:
            self._answered.pop(job, None)

    async def answered(self, job: str) -> int:
        """Requests of a running job that have their answer."""
        return self._answered.get(job, 0)

    async def next_change(self) -> str:
        return await self._pool.next_change()

    async def close(self) -> None:
        """Those that were added end here; whoever has started the others ends them."""
        if self._scaler and self._scaling:
            self._scaling.cancel()
            await self._scaler.close()
        await self._pool.close()


class PoolHandle:
    """What callers hold: `run` waits, `submit` returns an object reference."""

    def __init__(self, actor: Any, generators: Sequence[Any] = ()):
        self._actor = actor
        self.generators = tuple(generators)

    def give_back(self) -> None:
        """End the generators that the pool has grown by: what comes now needs their room."""
        ray.get(self._actor.give_back.remote())

    def submit(self, model: ModelRef, requests: Sequence[Request]) -> Any:
        """Ray object reference of the list of responses, in request order."""
        return self._actor.submit.remote(model, list(requests))

    def run(
        self, model: ModelRef, requests: Sequence[Request], describe: str = ""
    ) -> list[Response]:
        """The responses in request order; `describe` shows a progress bar of that name."""
        if not describe:
            return ray.get(self.submit(model, requests))
        job = uuid.uuid4().hex
        answer = self._actor.submit.remote(model, list(requests), job)
        with progress_bar(describe, len(requests)) as advance_to:
            while not ray.wait([answer], timeout=POLL_SECONDS)[0]:
                advance_to(ray.get(self._actor.answered.remote(job)))
            responses = ray.get(answer)
            advance_to(len(requests))
        return responses


@contextlib.contextmanager
def generator_pool(
    config: Config, base: ModelRef, generator: type = Generator
) -> Iterator[PoolHandle]:
    """Start the engines and their pool; end them with the block.

    generator: the class that the actors are made of; benchmarks bring one without an engine.
    """
    engines = config.engines
    # The tracking server's password has no business in actors.
    kind = Kind(config.model_copy(update={"tracking": Tracking()}), base, generator)
    generators = [kind.start(number) for number in range(engines.count)]
    # Beside the driver: it holds the jobs, so it shall live as long as who has asked.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    pool = (
        ray.remote(PoolActor)
        .options(num_cpus=0, max_concurrency=1000, scheduling_strategy=here)
        .remote(generators, engines, kind if engines.greatest > engines.count else None)
    )
    teller = threading.Thread(target=_tell_changes, args=(pool,), daemon=True)
    teller.start()
    try:
        started(pool.start.remote(), "engines")
        yield PoolHandle(pool, generators)
    finally:
        _end(pool, generators)
        teller.join(SHUTDOWN_SECONDS)


def _tell_changes(pool: Any) -> None:
    """Say which generators have come or gone, until the pool has ended."""
    with contextlib.suppress(ray.exceptions.RayError):
        while True:
            say(ray.get(pool.next_change.remote()))


def _end(pool: Any, generators: Sequence[Any]) -> None:
    """Engines first, actors afterwards: a killed actor leaves its engine behind for a while."""
    with contextlib.suppress(ray.exceptions.RayError):
        ray.get(pool.close.remote(), timeout=SHUTDOWN_SECONDS)
    endings = [generator.shutdown.remote() for generator in generators]
    ray.wait(endings, num_returns=len(endings), timeout=SHUTDOWN_SECONDS)
    for actor in [pool, *generators]:
        ray.kill(actor)
