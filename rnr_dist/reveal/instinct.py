"""The sequential bandit of INSTINCT, on whose code the paper builds, to the letter.

In: arm features and one score at a time. Out: the arm to pull next, which may be one pulled
before. Invariant: nothing but the form of the widths differs from the reference: they come in
closed form instead of from materialised gradients.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from rnr_dist.reveal.confidence import DiagonalWidths
from rnr_dist.reveal.features import FeatureTable
from rnr_dist.reveal.network import (
    BanditSettings,
    Fitting,
    Gradients,
    draw_parameters,
    fit,
    gradients,
    predict,
)

REFERENCE = BanditSettings(initial=40)


class Instinct:
    """A bandit for one pull at a time: all weights N(0,1), unscaled, U diagonal.

    After each score the network starts again from its initial weights and takes `steps` full-batch
    Adam steps on all scores so far, inputs standardised by the pulled arms' own mean and std,
    weights decayed by lambda/t. The arg max is over a fresh random `subset` of the arms (None: all
    of them, `paper` mode), and pulled arms are not left out. The `initial` random arms are not in
    U, and the first choice after them is made before any training, as in the reference.

    Of `settings`, `start` and `widths` play no part; `initial` is at least 2, so that a std exists.
    """

    def __init__(
        self, features: np.ndarray, seed: int, settings: BanditSettings = REFERENCE
    ) -> None:
        self._features = FeatureTable(features)
        self._seed, self._settings = seed, settings
        self._initial = max(2, settings.initial)
        arms = len(self._features)
        self._subset = arms if settings.subset is None else min(settings.subset, arms)
        self.initial_weights = draw_parameters(self._features.dimension, settings.hidden, seed)
        self.theta = self.initial_weights
        d = self._features.dimension
        self._mean = torch.zeros(d, dtype=torch.float64)
        self._std = torch.ones(d, dtype=torch.float64)
        self.widths = DiagonalWidths(settings.ridge, settings.exploration)
        self.widths.reset(self._gradients([]))
        order = np.random.default_rng([seed, 0]).permutation(len(self._features))
        self._starting = [int(arm) for arm in order[: self._initial]]
        self._choices = 0
        self._banned: set[int] = set()
        self.stale = False
        self.in_flight: set[int] = set()
        self.history: list[tuple[int, float]] = []  # repeats count each time

    @property
    def available(self) -> list[int]:
        """Arms that may be pulled: all but those whose pulls failed."""
        return [arm for arm in range(len(self._features)) if arm not in self._banned]

    def select(self) -> int:
        """The next random arm, then the arg max over a fresh random subset."""
        self._require_idle()
        if self._starting:
            return self._starting[0]
        drawn = np.random.default_rng([self._seed, 1, self._choices])
        arms = drawn.choice(len(self._features), self._subset, replace=False)
        allowed = [int(arm) for arm in arms if arm not in self._banned] or self.available
        if not allowed:
            raise ValueError(f"all {len(self._features)} arms failed")
        return allowed[int(self.bounds(allowed).argmax())]

    def dispatch(self, arm: int) -> np.ndarray:
        """Add the arm's gradient to U, unless it is one of the random ones.

        Returns what `restore` repeats this with: its standardised features, slopes, activations;
        nothing for a random one.
        """
        self._require_idle()
        pick = np.zeros(0)
        if not self._starting:
            at = self._gradients([arm])
            self.widths.add(at)
            pick = torch.cat([factor[0] for factor in at]).numpy()
        self._sent(arm)
        return pick

    def restore(self, arm: int, pick: np.ndarray) -> None:
        """Dispatch an arm with the gradient that it had when it was picked."""
        self._require_idle()
        if len(pick):
            d, hidden = self._features.dimension, len(self.theta.b1)
            parts = torch.from_numpy(pick)[None].split([d, hidden, hidden], dim=1)
            self.widths.add(Gradients(*parts))
        self._sent(arm)

    def observe(self, arm: int, score: float) -> None:
        """Take the score of the arm in flight; ValueError if it is not, or not finite."""
        if arm not in self.in_flight:
            raise ValueError(f"arm {arm} is not in flight")
        if not math.isfinite(score):
            raise ValueError(f"arm {arm}: score is {score}, expected a finite number")
        self.in_flight.clear()
        self.history.append((arm, score))
        # The reference selects once on the untrained network after its random arms.
        self.stale = self._choices > 0

    def withdraw(self, arm: int, *, again: bool = False) -> None:
        """A pull failed for good. The reference knows no failures: its gradient stays in U."""
        if arm not in self.in_flight:
            raise ValueError(f"arm {arm} is not in flight")
        self.in_flight.clear()
        if not again:
            self._banned.add(arm)

    def ban(self, arm: int) -> None:
        self._starting = [other for other in self._starting if other != arm]
        self._banned.add(arm)

    def next_outer(self, scores: dict[int, float], k: int) -> None:
        """Line 4 of Algorithm 1: a new network, told of the k arms of the highest scores."""
        ranked = sorted(scores, key=lambda arm: (-scores[arm], arm))[:k]
        self.history = [(arm, scores[arm]) for arm in ranked]
        self.widths.reset(self._gradients([]))
        self._starting = self._starting[:0] if len(ranked) >= 2 else self._starting
        self.stale = bool(self.history)

    def train(self) -> None:
        """Adam on all scores so far, from the initial weights."""
        self.stale = False
        pulled = self._features.rows([arm for arm, _ in self.history])
        self._mean, self._std = pulled.mean(0), pulled.std(0) + 1e-30
        features = (pulled - self._mean) / self._std
        scores = torch.tensor([score for _, score in self.history], dtype=torch.float64)
        settings = self._settings
        decay = settings.ridge / len(scores)
        how = Fitting(1.0, settings.steps, settings.learning_rate, decay, anchored=False)
        self.theta = fit(features, scores, self.initial_weights, how)

    def bounds(self, arms: list[int]) -> Tensor:
        """(len(arms),) mean + sqrt(width)."""
        bounds = []
        for first in range(0, len(arms), 256):
            at = self._gradients(arms[first : first + 256])
            bounds.append(predict(at.activations, self.theta) + self.widths.of(at).sqrt())
        return torch.cat(bounds)

    def _gradients(self, arms: list[int]) -> Gradients:
        features = (self._features.rows(arms) - self._mean) / self._std
        return gradients(features, self.theta, 1.0)

    def _sent(self, arm: int) -> None:
        self.in_flight = {arm}
        if self._starting:
            self._starting = [other for other in self._starting if other != arm]
        else:
            self._choices += 1

    def _require_idle(self) -> None:
        if self.in_flight:
            raise ValueError(f"arm {min(self.in_flight)} is in flight; expected one at a time")
