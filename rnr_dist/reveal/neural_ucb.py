"""NeuralUCB over a fixed arm table, with any number of pulls in flight (Algorithm 1, lines 4-14).

In: arm features and, in any order, scores. Out: the arm to pull next. Invariant: U (or Z) holds
the pick-time gradients of the training arms and of those in flight, and nothing else; the same
sequence of calls gives the same state, so replaying a log restores a bandit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

ROWS = 1024  # arms whose bounds are computed together: 32 MB a temporary at 4,096 features


class Parameters(NamedTuple):
    """One number for each parameter of f(x) = w2 . relu(w1 x + b1) / sqrt(hidden) + b2, float64.

    w1: (hidden, d). b1, w2: (hidden,). b2: scalar.
    """

    w1: Tensor
    b1: Tensor
    w2: Tensor
    b2: Tensor


class Gradients(NamedTuple):
    """Gradients of f at n arms in factors, since n x |theta| numbers would be gigabytes.

    df/dw1 = slopes x features (outer), df/db1 = slopes, df/dw2 = activations, df/db2 = 1.
    features: (n, d). slopes: (n, hidden), w2 / sqrt(hidden) where a unit is active, else 0.
    activations: (n, hidden), after the ReLU, / sqrt(hidden).
    """

    features: Tensor
    slopes: Tensor
    activations: Tensor


Widths = Callable[[Gradients, Gradients, float, float], Tensor]


def gradients(features: Tensor, theta: Parameters) -> Gradients:
    """Gradients of the network's output at (n, d) features."""
    before = features @ theta.w1.T + theta.b1
    gain = len(theta.w2) ** -0.5
    return Gradients(features, (before > 0) * theta.w2 * gain, before.relu() * gain)


def predict(at: Gradients, theta: Parameters) -> Tensor:
    """(n,) outputs of the network whose gradients these are."""
    return at.activations @ theta.w2 + theta.b2


def weighted_sum(at: Gradients, weights: Tensor) -> Parameters:
    """Sum of the gradients at n arms, each times one of (n,) weights."""
    slopes = at.slopes * weights[:, None]
    return Parameters(
        slopes.T @ at.features, slopes.sum(0), weights @ at.activations, weights.sum()
    )


def diagonal_precision(picked: Gradients, ridge: float) -> Parameters:
    """U = lambda + the sum of squared gradients of the picked arms, t >= 0 of them."""
    features, slopes, activations = (factor.square() for factor in picked)
    return Parameters(
        ridge + slopes.T @ features,
        ridge + slopes.sum(0),
        ridge + activations.sum(0),
        torch.tensor(ridge + len(features), dtype=torch.float64),
    )


def diagonal_widths(at: Gradients, picked: Gradients, ridge: float, exploration: float) -> Tensor:
    """(n,) sigma^2 = lambda nu sum g^2/U by matrix products alone (as INSTINCT, diagonal U)."""
    precision = diagonal_precision(picked, ridge)
    features, slopes, activations = (factor.square() for factor in at)
    inverse = (
        ((slopes @ precision.w1.reciprocal()) * features).sum(1)
        + slopes @ precision.b1.reciprocal()
        + activations @ precision.w2.reciprocal()
        + precision.b2.reciprocal()
    )
    return ridge * exploration * inverse


def full_widths(at: Gradients, picked: Gradients, ridge: float, exploration: float) -> Tensor:
    """(n,) sigma^2 = lambda nu g^T Z^-1 g with the whole Z = lambda I + sum g g^T (Zhou et al.).

    By the dual form g^T Z^-1 g = (k(x,x) - k_t^T (K + lambda I)^-1 k_t) / lambda, so that the
    cost follows the number of picks and not the number of parameters.
    """
    own = (
        at.slopes.square().sum(1) * (at.features.square().sum(1) + 1)
        + at.activations.square().sum(1)
        + 1
    )
    cross = _kernel(picked, at)
    regularised = _kernel(picked, picked) + ridge * torch.eye(len(cross), dtype=torch.float64)
    half = torch.linalg.solve_triangular(torch.linalg.cholesky(regularised), cross, upper=False)
    return exploration * (own - half.square().sum(0)).clamp_min(0)


def _kernel(left: Gradients, right: Gradients) -> Tensor:
    """Inner products of gradients: k(x, s) = (D_x . D_s)(x . s + 1) + H_x . H_s + 1."""
    return (
        (left.slopes @ right.slopes.T) * (left.features @ right.features.T + 1)
        + left.activations @ right.activations.T
        + 1
    )


class NeuralUCB:
    """Upper confidence bounds of one hidden ReLU layer over standardised arm features.

    All weights start as N(0,1). The mean is f - f at the start, with inputs scaled by 1/sqrt(d)
    and units by 1/sqrt(hidden), so that an arm's mean is 0 until scores say otherwise (Zhou et
    al. 2020, section 3). The reference (INSTINCT) leaves all three out: its start spreads over
    tens to hundreds where scores lie in [0, 1]; on synthetic rewards it was no better than chance.

    features: (arms, d), finite. ridge: lambda. exploration: nu. initial: arms drawn at random
    before bounds are trusted. steps, learning_rate: of each training. widths: `diagonal_widths`
    or `full_widths`. Hallucinated updates (GP-BUCB): an arm counts in the widths from its
    dispatch on, in the mean from its score on. Raises ValueError for features that are not finite.
    """

    def __init__(
        self,
        features: np.ndarray,
        *,
        seed: int,
        hidden: int = 100,
        ridge: float = 0.1,
        exploration: float = 1.0,
        initial: int = 8,
        steps: int = 1000,
        learning_rate: float = 1e-3,
        widths: Widths = diagonal_widths,
    ) -> None:
        table = torch.as_tensor(features, dtype=torch.float64)
        finite = table.isfinite().all(1)
        if not finite.all():
            raise ValueError(f"arm {int((~finite).nonzero()[0])}: features are not all finite")
        spread = table.std(0, correction=0)
        standardised = (table - table.mean(0)) / torch.where(spread > 0, spread, 1.0)
        self._features = standardised / math.sqrt(table.shape[1])
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape: int) -> Tensor:
            return torch.randn(shape, dtype=torch.float64, generator=generator)

        d = table.shape[1]
        self.initial_weights = Parameters(draw(hidden, d), draw(hidden), draw(hidden), draw())
        self._theta = self.initial_weights
        self._stale = False
        self._seed, self._initial = seed, initial
        self._ridge, self._exploration, self._widths = ridge, exploration, widths
        self._steps, self._learning_rate = steps, learning_rate
        self._picks: dict[int, Gradients] = {}
        self._dispatches = 0
        self._training: set[int] = set()
        self.in_flight: set[int] = set()
        self.scores: dict[int, float] = {}

    @property
    def available(self) -> list[int]:
        """Arms neither pulled nor in flight, ascending."""
        return [arm for arm in range(len(self._features)) if arm not in self._picks]

    @property
    def precision(self) -> Parameters:
        """The diagonal U of the arms in training and in flight."""
        return diagonal_precision(self._picked(), self._ridge)

    def select(self) -> int:
        """The available arm of the highest bound (Algorithm 1, line 7), training first if need be.

        While fewer than `initial` arms are in training or in flight, a random one. Raises
        ValueError when no arm is available.
        """
        available = self.available
        if not available:
            raise ValueError(f"all {len(self._features)} arms were pulled or are in flight")
        if len(self._training | self.in_flight) < self._initial:
            # A stream for each dispatch: a replay need not repeat the draws, and an arm that was
            # withdrawn is not drawn again at once.
            drawn = np.random.default_rng([self._seed, self._dispatches])
            return int(drawn.choice(available))
        if self._stale:
            self.train()
        return available[int(self.bounds(available).argmax())]

    def bounds(self, arms: list[int]) -> Tensor:
        """(len(arms),) mean + sqrt(width) under the network as last trained."""
        picked = self._picked()
        bounds = []
        for rows in torch.tensor(arms).split(ROWS):
            at = gradients(self._features[rows], self._theta)
            width = self._widths(at, picked, self._ridge, self._exploration)
            mean = predict(at, self._theta) - self._start(self._features[rows])
            bounds.append(mean + width.sqrt())
        return torch.cat(bounds)

    def dispatch(self, arm: int) -> None:
        """Mask an arm and add its gradient, as of the last training, to U: its pull is under way.

        A replay that need not match to the bit may leave out `select` and its trainings. Raises
        ValueError for an arm that was pulled or is in flight.
        """
        if arm in self._picks:
            raise ValueError(f"arm {arm} was already pulled or is in flight")
        self._picks[arm] = gradients(self._features[arm : arm + 1], self._theta)
        self._dispatches += 1
        self.in_flight.add(arm)

    def observe(self, arm: int, score: float) -> None:
        """Take the score of an arm in flight (line 13); ValueError if it is not, or not finite."""
        self._require(arm, self.in_flight, "in flight")
        self._require_finite(arm, score)
        self.in_flight.remove(arm)
        self._training.add(arm)
        self.scores[arm] = score
        self._stale = True

    def withdraw(self, arm: int) -> None:
        """A pull failed for good: take its gradient back and make the arm available again."""
        self._require(arm, self.in_flight, "in flight")
        self.in_flight.remove(arm)
        del self._picks[arm]

    def rescore(self, scores: dict[int, float]) -> None:
        """Replace scores of observed arms, since D grew. Raises ValueError as `observe` does."""
        for arm, score in scores.items():
            self._require(arm, self.scores, "observed")
            self._require_finite(arm, score)
        self.scores.update(scores)
        self._stale = True

    def warm_start(self, k: int) -> None:
        """Begin an outer iteration with the k best of all observed arms as training data (line 4).

        Call it after `rescore`. The others stay masked, since their scores are known, and leave U.
        """
        ranked = sorted(self.scores, key=lambda arm: (-self.scores[arm], arm))
        self._training = set(ranked[:k])
        self._stale = True

    def train(self) -> None:
        """Full-batch Adam on the mean squared error, from the initial weights, decay lambda/t."""
        self._stale = False
        self._theta = self.initial_weights
        if not self._training:
            return
        arms = sorted(self._training)  # so that the order of arrival leaves no trace
        features = self._features[arms]
        scores = torch.tensor([self.scores[arm] for arm in arms], dtype=torch.float64)
        targets = scores + self._start(features)
        # What decays is the distance from the initial weights (Zhou et al.): decay to zero would
        # move the mean of arms that no score speaks of.
        shift = [torch.zeros_like(weight) for weight in self.initial_weights]
        optimiser = torch.optim.Adam(
            shift, lr=self._learning_rate, weight_decay=self._ridge / len(arms), fused=True
        )
        for _ in range(self._steps):
            theta = self._shifted(shift)
            at = gradients(features, theta)
            errors = predict(at, theta) - targets
            slopes = weighted_sum(at, 2 / len(arms) * errors)
            for parameter, slope in zip(shift, slopes, strict=True):
                parameter.grad = slope
            optimiser.step()
        self._theta = self._shifted(shift)

    def _shifted(self, shift: list[Tensor]) -> Parameters:
        return Parameters(*(a + b for a, b in zip(self.initial_weights, shift, strict=True)))

    def _start(self, features: Tensor) -> Tensor:
        return predict(gradients(features, self.initial_weights), self.initial_weights)

    def _picked(self) -> Gradients:
        picks = [self._picks[arm] for arm in sorted(self._training | self.in_flight)]
        empty = gradients(self._features[:0], self._theta)
        return Gradients(*(torch.cat(factors) for factors in zip(empty, *picks, strict=True)))

    @staticmethod
    def _require(arm: int, arms: Iterable[int], state: str) -> None:
        if arm not in arms:
            raise ValueError(f"arm {arm} is not {state}")

    @staticmethod
    def _require_finite(arm: int, score: float) -> None:
        if not math.isfinite(score):
            raise ValueError(f"arm {arm}: score is {score}, expected a finite number")
