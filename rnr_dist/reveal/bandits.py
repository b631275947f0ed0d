"""The bandits by the name of their mode, and what a search needs of one.

In: arm features, the config's `reveal`. Out: a `Bandit`. Invariant: `select` never trains; who
holds a bandit trains it when it is `stale`, before a choice or beside the pulls.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from rnr_dist.config.reveal import Reveal
from rnr_dist.reveal.instinct import Instinct
from rnr_dist.reveal.network import BanditSettings
from rnr_dist.reveal.neural_ucb import NeuralUCB


class Bandit(Protocol):
    """See `NeuralUCB` for what each of these does."""

    stale: bool
    in_flight: set[int]

    @property
    def available(self) -> list[int]: ...
    def select(self) -> int: ...
    def dispatch(self, arm: int) -> np.ndarray: ...
    def restore(self, arm: int, pick: np.ndarray) -> None: ...
    def observe(self, arm: int, score: float) -> None: ...
    def withdraw(self, arm: int, *, again: bool = False) -> None: ...
    def ban(self, arm: int) -> None: ...
    def next_outer(self, scores: dict[int, float], k: int) -> None: ...
    def train(self) -> None: ...


def make_bandit(features: np.ndarray, reveal: Reveal, seed: int) -> Bandit:
    """The bandit of `reveal.mode`."""
    settings = BanditSettings(
        hidden=reveal.hidden,
        ridge=reveal.ridge,
        exploration=reveal.exploration,
        initial=reveal.initial,
        start=reveal.start,
        steps=reveal.training_steps,
        widths=reveal.widths,
        subset=1000 if reveal.mode == "instinct" else None,
    )
    kind = NeuralUCB if reveal.mode == "default" else Instinct
    return kind(features, seed, settings)
