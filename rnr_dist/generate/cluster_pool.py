"""The pool on Ray: one actor owns it, everyone holds a small picklable handle.

In: a config and a base model. Out: a `PoolHandle` inside a `with` block. Invariant: when the block
ends, for whatever reason, the engines' processes have been ended before their actors.
"""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rnr_dist.config.engines import Engines
from rnr_dist.config.schema import Config
from rnr_dist.generate.actor import Generator, actor_options
from rnr_dist.generate.pool import EngineDiedError, Pool
from rnr_dist.generate.requests import Request, Response
from rnr_dist.machine.actors import started
from rnr_dist.run.progress import progress_bar, say
from rnr_dist.types import ModelRef

POLL_SECONDS = 0.5
SHUTDOWN_SECONDS = 5.0  # for each step of an ending; what takes longer is killed


class RayLink:
    """A generator actor as the pool sees it: Ray's actor errors become EngineDiedError."""

    def __init__(self, handle: Any):
        self._handle = handle

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


class PoolActor:
    """The pool's Ray actor: drivers, trials and the bandit all submit to it."""

    def __init__(self, generators: Sequence[Any], engines: Engines):
        links = [RayLink(generator) for generator in generators]
        self._pool = Pool(links, engines.batch, engines.in_flight, beside=engines.weights == "lora")
        self._answered: dict[str, int] = {}

    async def start(self) -> None:
        await self._pool.start()

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

    async def next_loss(self) -> str:
        return await self._pool.next_loss()

    async def close(self) -> None:
        await self._pool.close()


class PoolHandle:
    """What callers hold: `run` waits, `submit` returns an object reference."""

    def __init__(self, actor: Any, generators: Sequence[Any] = ()):
        self._actor = actor
        self.generators = tuple(generators)

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
    generators = [
        ray.remote(generator)
        .options(**actor_options(config.engines))
        .remote(config.engines, base, index, config.trust_remote_code)
        for index in range(config.engines.count)
    ]
    # Beside the driver: it holds the jobs, so it shall live as long as who has asked.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    pool = (
        ray.remote(PoolActor)
        .options(num_cpus=0, max_concurrency=1000, scheduling_strategy=here)
        .remote(generators, config.engines)
    )
    teller = threading.Thread(target=_tell_losses, args=(pool,), daemon=True)
    teller.start()
    try:
        started(pool.start.remote(), "engines")
        yield PoolHandle(pool, generators)
    finally:
        _end(pool, generators)
        teller.join(SHUTDOWN_SECONDS)


def _tell_losses(pool: Any) -> None:
    """Say which generators are gone for good, until the pool has ended: the others go on."""
    with contextlib.suppress(ray.exceptions.RayError):
        while True:
            say(ray.get(pool.next_loss.remote()))


def _end(pool: Any, generators: Sequence[Any]) -> None:
    """Engines first, actors afterwards: a killed actor leaves its engine behind for a while."""
    with contextlib.suppress(ray.exceptions.RayError):
        ray.get(pool.close.remote(), timeout=SHUTDOWN_SECONDS)
    endings = [generator.shutdown.remote() for generator in generators]
    ray.wait(endings, num_returns=len(endings), timeout=SHUTDOWN_SECONDS)
    for actor in [pool, *generators]:
        ray.kill(actor)
