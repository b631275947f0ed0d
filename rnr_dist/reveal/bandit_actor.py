"""The Ray actor that owns the bandit: the one place where arms are chosen.

Invariant: calls come one after another, so the state is what the same calls give to the pure class.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import ray

from rnr_dist.config import Reveal
from rnr_dist.reveal.neural_ucb import NeuralUCB


class BanditActor:
    """NeuralUCB behind an actor; all decisions are `NeuralUCB`'s own."""

    def __init__(self, features: np.ndarray, reveal: Reveal, seed: int):
        import torch

        # Its matrices are small: a second thread only waits for cores that engines keep busy.
        torch.set_num_threads(1)
        self._bandit = NeuralUCB(
            features,
            seed=seed,
            hidden=reveal.hidden,
            ridge=reveal.ridge,
            exploration=reveal.exploration,
            initial=reveal.initial,
        )

    def take(self) -> int | None:
        """Choose an arm and dispatch it; None when none is left."""
        if not self._bandit.available:
            return None
        arm = self._bandit.select()
        self._bandit.dispatch(arm)
        return arm

    def dispatch(self, arm: int) -> None:
        """Dispatch a given arm (replay of the event log)."""
        self._bandit.dispatch(arm)

    def observe(self, arm: int, score: float) -> None:
        self._bandit.observe(arm, score)

    def withdraw(self, arm: int) -> None:
        self._bandit.withdraw(arm)

    def next_outer(self, scores: dict[int, float], warm_start: int) -> None:
        """Rescore all history under the grown forget set and start from the k best."""
        self._bandit.rescore(scores)
        self._bandit.warm_start(warm_start)


def start_bandit(features: np.ndarray, reveal: Reveal, seed: int) -> Any:
    """Handle of a new bandit actor (it holds no CPU: it works while generators do)."""
    return ray.remote(BanditActor).options(num_cpus=0).remote(features, reveal, seed)
