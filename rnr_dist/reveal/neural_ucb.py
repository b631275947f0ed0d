"""NeuralUCB over a fixed arm table, with any number of pulls in flight (Algorithm 1, lines 4-14).

In: arm features and, in any order, scores. Out: the arm to pull next. Invariant: Z holds the
pick-time gradients of the training arms and of those in flight, and nothing else; given the picks
that a log kept, the same scores restore the same bandit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from rnr_dist.reveal.confidence import WIDTHS, Widths
from rnr_dist.reveal.features import FeatureTable, Standardised
from rnr_dist.reveal.network import (
    BanditSettings,
    Fitting,
    Gradients,
    Parameters,
    draw_parameters,
    fit_in_span,
    gradients,
    predict,
)
from rnr_dist.reveal.network import units as units_of

ROWS = 1024  # arms whose units are computed together
DEFAULT = BanditSettings()
FIRST_ROUND = 32  # arms whose exact bounds are computed together; each further round doubles


class NeuralUCB:
    """Upper confidence bounds of one hidden ReLU layer over standardised arm features.

    All weights start as N(0,1). The mean is f - f at the start, with inputs scaled by 1/sqrt(d)
    and units by 1/sqrt(hidden), so that an arm's mean is 0 until scores say otherwise (Zhou et
    al. 2020, section 3). The reference (INSTINCT) leaves all three out: its start spreads over
    tens to hundreds where scores lie in [0, 1]; see `instinct` for it.

    features: (arms, d), finite. Hallucinated updates (GP-BUCB): an arm counts in the widths from
    its dispatch on, in the mean from its score on.
    Raises ValueError for features that are not finite.
    """

    def __init__(self, features: np.ndarray, seed: int, settings: BanditSettings = DEFAULT) -> None:
        self._features = Standardised(FeatureTable(features))
        self._seed, self._settings = seed, settings
        self._gain = settings.hidden**-0.5
        self.initial_weights = draw_parameters(self._features.dimension, settings.hidden, seed)
        self.theta = self.initial_weights
        self._before = self._outputs(self.initial_weights)  # f at the start
        self.widths: Widths = WIDTHS[settings.widths](settings.ridge, settings.exploration)
        self._picks: dict[int, Gradients] = {}  # without features, which the table has
        self._masked = torch.zeros(len(self._features), dtype=torch.bool)
        self._distances: Tensor | None = None
        self._training: set[int] = set()
        self._dispatches = 0
        self.stale = False  # scores have come since the last training
        self.unlearnt = 0  # so many
        self.in_flight: set[int] = set()
        self.scores: dict[int, float] = {}
        self._rebuild()

    @property
    def available(self) -> list[int]:
        """Arms neither pulled nor in flight nor failed, ascending."""
        return (~self._masked).nonzero()[:, 0].tolist()

    def select(self) -> int:
        """The available arm of the highest bound (Algorithm 1, line 7) by the network as it is.

        While fewer than `initial` arms are in training or in flight, one by `start`. Raises
        ValueError when no arm is available.
        """
        if self._masked.all():
            raise ValueError(f"all {len(self._masked)} arms were pulled or are in flight")
        if len(self._training | self.in_flight) < self._settings.initial:
            return self._first_arm()
        return self._arg_max()

    def dispatch(self, arm: int) -> np.ndarray:
        """Mask an arm and add its gradient, as of the last training, to Z: its pull is under way.

        Returns the (2 hidden,) factors of the gradient, with which `restore` repeats this. Raises
        ValueError for an arm that was pulled or is in flight.
        """
        self._require_free(arm)
        at = gradients(self._features.rows([arm]), self.theta, self._gain)
        self._add(arm, at)
        return torch.cat([at.slopes[0], at.activations[0]]).numpy()

    def restore(self, arm: int, pick: np.ndarray) -> None:
        """Dispatch an arm with the gradient that it had when it was picked."""
        self._require_free(arm)
        slopes, activations = torch.from_numpy(pick).view(2, 1, -1)
        self._add(arm, Gradients(self._features.rows([arm]), slopes, activations))

    def observe(self, arm: int, score: float) -> None:
        """Take the score of an arm in flight (line 13); ValueError if it is not, or not finite."""
        self._require(arm, self.in_flight, "in flight")
        self._require_finite(arm, score)
        self.in_flight.remove(arm)
        self._training.add(arm)
        self.scores[arm] = score
        self.stale = True
        self.unlearnt += 1

    def withdraw(self, arm: int, *, again: bool = False) -> None:
        """A pull failed for good: take its gradient back; `again` makes the arm available."""
        self._require(arm, self.in_flight, "in flight")
        self.in_flight.remove(arm)
        del self._picks[arm]
        self._masked[arm] = not again
        self._rebuild()

    def ban(self, arm: int) -> None:
        """Never choose this arm (replay of a pull that failed for good)."""
        self._require_free(arm)
        self._masked[arm] = True
        self._dispatches += 1

    def next_outer(self, scores: dict[int, float], k: int) -> None:
        """Begin an outer iteration: D grew, all history is rescored, the k best train (line 4).

        The other arms stay masked, since their scores are known, and leave Z. Raises ValueError as
        `observe` does.
        """
        for arm, score in scores.items():
            self._require(arm, self.scores, "observed")
            self._require_finite(arm, score)
        self.scores.update(scores)
        ranked = sorted(self.scores, key=lambda arm: (-self.scores[arm], arm))
        self._training = set(ranked[:k])
        self.stale = True
        self._rebuild()

    def train(self) -> None:
        """Fit the network to the scores of the training arms, from the initial weights."""
        self.adopt(*self.training_job()())

    def training_job(self) -> Callable[[], tuple[Parameters, Tensor]]:
        """A training to run elsewhere, in a thread say, whose result `adopt` takes."""
        self.stale, self.unlearnt = False, 0
        arms = sorted(self._training)  # so that the order of arrival leaves no trace
        features = self._features.rows(arms)
        scores = torch.tensor([self.scores[arm] for arm in arms], dtype=torch.float64)
        targets = scores + self._before[arms]

        def job() -> tuple[Parameters, Tensor]:
            theta = self.initial_weights
            if arms:
                how = Fitting(
                    self._gain,
                    self._settings.steps,
                    self._settings.learning_rate,
                    self._settings.ridge / len(arms),
                )
                theta = fit_in_span(features, targets, theta, how)
            return theta, self._preactivations(theta)

        return job

    def adopt(self, theta: Parameters, before: Tensor) -> None:
        """Choose by these weights from now on. before: all arms' pre-activations under them."""
        self.theta = theta
        rows = range(0, len(before), ROWS)
        self._refresh((slice(first, first + ROWS), before[first : first + ROWS]) for first in rows)

    def bounds(self, arms: list[int]) -> Tensor:
        """(len(arms),) mean + sqrt(width) under the network as last trained."""
        size = self._features.block_rows
        parts = [arms[first : first + size] for first in range(0, len(arms), size)]
        return torch.cat([self._bounds(part) for part in parts])

    def _bounds(self, arms: list[int]) -> Tensor:
        at = gradients(self._features.rows(arms), self.theta, self._gain)
        mean = predict(at.activations, self.theta) - self._before[arms]
        return mean + self.widths.of(at).sqrt()

    def _arg_max(self) -> int:
        """The exact arg max, lazily: a bound is computed only while its ceiling leads."""
        round_size = FIRST_ROUND
        ceilings = self._ceilings.masked_fill(self._masked, -math.inf)
        while True:
            best = int(ceilings.argmax())
            if self._exact[best]:
                return best
            candidates = torch.where(self._exact, -math.inf, ceilings)
            leading = candidates.topk(min(round_size, len(candidates))).indices
            leading = leading[candidates[leading] > -math.inf]
            self._ceilings[leading] = ceilings[leading] = self.bounds(leading.tolist())
            self._exact[leading] = True
            round_size *= 2

    def _first_arm(self) -> int:
        if self._settings.start == "k_centre" and self._distances is not None:
            return int(self._distances.masked_fill(self._masked, -1).argmax())
        # A stream for each dispatch: a replay need not repeat the draws, and an arm that was
        # withdrawn is not drawn again at once.
        drawn = np.random.default_rng([self._seed, self._dispatches])
        return int(drawn.choice(self.available))

    def _add(self, arm: int, at: Gradients) -> None:
        self._picks[arm] = at._replace(features=at.features[:, :0])
        self._masked[arm] = True
        self._dispatches += 1
        self.in_flight.add(arm)
        self.widths.add(at)
        self._exact[:] = False  # all widths may have fallen: what was exact is a ceiling now
        if self._settings.start == "k_centre" and len(self._picks) < self._settings.initial:
            near = self._features.squared_distances(at.features[0])
            self._distances = near if self._distances is None else self._distances.minimum(near)

    def _rebuild(self) -> None:
        """Z from the picks that count; widths may rise, so that no ceiling stands."""
        arms = sorted(self._training | self.in_flight)
        none = gradients(self._features.rows([]), self.theta, self._gain)
        picks = [none, *(self._picks[arm] for arm in arms)]
        self.widths.reset(
            Gradients(
                self._features.rows(arms),
                torch.cat([pick.slopes for pick in picks]),
                torch.cat([pick.activations for pick in picks]),
            )
        )
        self._refresh(self._blocks(self.theta))

    def _refresh(self, before: Iterable[tuple[slice, Tensor]]) -> None:
        """New ceilings for all arms from blocks of their pre-activations."""
        norms, start = self._features.squared_norms, self._before
        blocks = [self._ceiling(block, norms[arms], start[arms]) for arms, block in before]
        self._ceilings = torch.cat(blocks)
        self._exact = torch.zeros_like(self._masked)

    def _ceiling(self, before: Tensor, squared_norms: Tensor, start: Tensor) -> Tensor:
        slopes, activations = units_of(before, self.theta, self._gain)
        width = self.widths.ceiling(squared_norms, slopes, activations)
        return predict(activations, self.theta) - start + width.sqrt()

    def _blocks(self, theta: Parameters) -> Iterator[tuple[slice, Tensor]]:
        """Pre-activations of consecutive arms."""
        for arms, block in self._features.products(theta.w1):
            yield arms, block.add_(theta.b1)

    def _preactivations(self, theta: Parameters) -> Tensor:
        before = torch.empty(len(self._features), len(theta.b1), dtype=torch.float64)
        for arms, block in self._blocks(theta):
            before[arms] = block
        return before

    def _outputs(self, theta: Parameters) -> Tensor:
        """(arms,) outputs of the network."""
        outputs = [
            predict(units_of(block, theta, self._gain)[1], theta)
            for _, block in self._blocks(theta)
        ]
        return torch.cat(outputs)

    def _require_free(self, arm: int) -> None:
        if self._masked[arm]:
            raise ValueError(f"arm {arm} was already pulled or is in flight")

    @staticmethod
    def _require(arm: int, arms: Iterable[int], state: str) -> None:
        if arm not in arms:
            raise ValueError(f"arm {arm} is not {state}")

    @staticmethod
    def _require_finite(arm: int, score: float) -> None:
        if not math.isfinite(score):
            raise ValueError(f"arm {arm}: score is {score}, expected a finite number")
