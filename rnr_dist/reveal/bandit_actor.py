"""The Ray actor that owns the bandit: the one place where arms are chosen.

Invariant: the bandit changes on the actor's event loop only, so the state is what the same calls
give to the pure class; trainings run beside it in a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rnr_dist.config.reveal import Reveal
from rnr_dist.reveal.bandits import make_bandit
from rnr_dist.reveal.network import Parameters
from rnr_dist.reveal.neural_ucb import NeuralUCB

if TYPE_CHECKING:
    from torch import Tensor

Told = tuple[int, float | None]  # an arm and its score; None: its pull failed for good
Taken = tuple[int, np.ndarray]  # an arm and its pick

NEWS = 0.1  # share of all scores that must be new before the next training beside the pulls
BUSY = 0.1  # at most so much of the time does a training run beside the pulls


class BanditActor:
    """A bandit behind an actor; all decisions are the bandit's own.

    It trains before a choice when nothing is in flight, since nobody waits for a core then and one
    pull at a time stays exactly the sequential algorithm; else beside the pulls, off the path of
    selection.
    """

    def __init__(self, features: np.ndarray, reveal: Reveal, seed: int):
        import torch
        from threadpoolctl import threadpool_limits

        # Its matrices are small: a second thread only waits for cores that engines keep busy.
        torch.set_num_threads(1)
        threadpool_limits(1, user_api="blas")
        self._bandit = make_bandit(features, reveal, seed)
        self._training: asyncio.Task[None] | None = None
        self._rests_until = 0.0  # monotonic seconds

    async def exchange(self, told: Sequence[Told], wanted: int) -> list[Taken]:
        """Take scores, then choose and dispatch so many arms; fewer when no more are left."""
        for arm, score in told:
            if score is None:
                self._bandit.withdraw(arm)
            else:
                self._bandit.observe(arm, score)
        self._train_beside()
        taken: list[Taken] = []
        while len(taken) < wanted and self._bandit.available:
            if self._bandit.stale and not self._bandit.in_flight:
                if self._training:
                    await self._training
                if self._bandit.stale:
                    self._bandit.train()
            arm = self._bandit.select()
            taken.append((arm, self._bandit.dispatch(arm)))
        return taken

    async def restore(self, arm: int, pick: np.ndarray) -> None:
        """Dispatch a given arm with the gradient of its pick time (replay of the event log)."""
        self._bandit.restore(arm, pick)

    async def observe(self, arm: int, score: float) -> None:
        self._bandit.observe(arm, score)
        self._train_beside()

    async def ban(self, arm: int) -> None:
        self._bandit.ban(arm)

    async def next_outer(self, scores: dict[int, float], warm_start: int) -> None:
        """All history rescored under the grown forget set, the k best to start from."""
        if self._training:
            await self._training
        self._bandit.next_outer(scores, warm_start)

    async def process(self) -> int:
        """Id of the actor's process."""
        return os.getpid()

    def _train_beside(self) -> None:
        bandit, idle = self._bandit, self._training is None or self._training.done()
        if not (idle and bandit.in_flight and isinstance(bandit, NeuralUCB)):
            return
        # A training costs ever more and tells ever less: what a few scores add can wait.
        rested = time.monotonic() >= self._rests_until
        if rested and bandit.unlearnt >= NEWS * len(bandit.scores):
            self._training = asyncio.create_task(self._train(bandit))

    async def _train(self, bandit: NeuralUCB) -> None:
        job = bandit.training_job()

        def work() -> tuple[Parameters, Tensor]:
            # Whoever waits for a choice or an answer goes first; Linux has niceness by thread.
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
            return job()

        began = time.monotonic()
        bandit.adopt(*await asyncio.to_thread(work))
        ended = time.monotonic()
        self._rests_until = ended + (ended - began) * (1 / BUSY - 1)
        if bandit.stale:
            self._training = None
            self._train_beside()


class BanditDiedError(RuntimeError):
    """The bandit's actor is gone; the event log holds all that it knew."""


class RemoteBandit:
    """The actor's methods, to await in any event loop; they raise BanditDiedError."""

    def __init__(self, actor: Any):
        self.actor = actor

    async def exchange(self, told: Sequence[Told], wanted: int) -> list[Taken]:
        return await self._ask("exchange", list(told), wanted)

    async def restore(self, arm: int, pick: np.ndarray) -> None:
        await self._ask("restore", arm, pick)

    async def observe(self, arm: int, score: float) -> None:
        await self._ask("observe", arm, score)

    async def ban(self, arm: int) -> None:
        await self._ask("ban", arm)

    async def next_outer(self, scores: dict[int, float], warm_start: int) -> None:
        await self._ask("next_outer", scores, warm_start)

    async def _ask(self, method: str, *arguments: Any) -> Any:
        from ray.exceptions import RayActorError

        try:
            return await getattr(self.actor, method).remote(*arguments)
        except RayActorError as error:
            raise BanditDiedError("the bandit's actor died") from error


@contextlib.contextmanager
def remote_bandit(features: np.ndarray, reveal: Reveal, seed: int) -> Iterator[RemoteBandit]:
    """A new bandit actor for the block (it holds no CPU: it works while generators do)."""
    import ray

    actor = ray.remote(BanditActor).options(num_cpus=0).remote(features, reveal, seed)
    try:
        yield RemoteBandit(actor)
    finally:
        ray.kill(actor)
