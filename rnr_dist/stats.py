"""Uncertainty for everyone: cluster bootstrap over contexts, paired when two models are compared.

In: per-context numerators and denominators. Out: values, intervals, probabilities that a rule
holds. Invariant: contexts are resampled, never single continuations, since continuations of one
context are not independent.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
from pydantic import PlainValidator
from scipy import stats as scipy_stats

BOOTSTRAP_DRAWS = 2000
SMALL_COUNT = 5  # below it the bootstrap of a proportion collapses to a point


def _vector(value: Any) -> np.ndarray:
    """Numbers as floats; null as NaN. Raises ValueError for anything else."""
    try:
        found = np.asarray(value, float)
    except (TypeError, ValueError):
        found = np.zeros(())
    if found.ndim != 1:
        raise ValueError("a list of numbers")
    return found


Vector = Annotated[np.ndarray, PlainValidator(_vector)]  # so that the codec reads it


@dataclass(frozen=True)
class ClusterMean:
    """A measure that is f(sum of numerators / sum of denominators) over contexts.

    numerator, denominator: (C,) floats, one entry a context, in the same context order for every
    model that is compared. `exponential` is True for perplexity (f = exp). `proportion` marks 0/1
    counts, for which exact bounds exist.
    """

    numerator: Vector
    denominator: Vector
    exponential: bool = False
    proportion: bool = False

    @property
    def value(self) -> float:
        return float(self._finish(self.numerator.sum(), self.denominator.sum()))

    @property
    def n_contexts(self) -> int:
        return len(self.numerator)

    def __add__(self, other: ClusterMean) -> ClusterMean:
        """More samples of the same contexts."""
        return replace(
            self,
            numerator=self.numerator + other.numerator,
            denominator=self.denominator + other.denominator,
        )

    def _finish(self, top, bottom):
        mean = np.divide(top, bottom, out=np.zeros_like(np.asarray(top, float)), where=bottom > 0)
        return np.exp(mean) if self.exponential else mean

    def draws(self, weights: np.ndarray) -> np.ndarray:
        """(B,) values under (B, C) resampling counts."""
        return self._finish(weights @ self.numerator, weights @ self.denominator)


def resampling_counts(n_contexts: int, seed: int = 0, draws: int = BOOTSTRAP_DRAWS) -> np.ndarray:
    """(draws, C) multinomial counts of a bootstrap over contexts; the same for equal arguments."""
    generator = np.random.default_rng(seed)
    uniform = np.full(n_contexts, 1 / n_contexts)
    return generator.multinomial(n_contexts, uniform, size=draws).astype(float)


def interval(measure: ClusterMean, level: float = 0.95) -> tuple[float, float]:
    """Percentile cluster-bootstrap interval; exact binomial where a proportion's count is small."""
    if measure.proportion:
        count, total = measure.numerator.sum(), measure.denominator.sum()
        if count < SMALL_COUNT or total - count < SMALL_COUNT:
            return exact_interval(int(count), int(total), level)
    drawn = measure.draws(resampling_counts(measure.n_contexts))
    tail = (1 - level) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return float(low), float(high)


def exact_interval(count: int, total: int, level: float = 0.95) -> tuple[float, float]:
    """Clopper-Pearson interval of a proportion."""
    result = scipy_stats.binomtest(count, total).proportion_ci(level, method="exact")
    return float(result.low), float(result.high)


def paired_ratio(
    measure: ClusterMean, base: ClusterMean, level: float = 0.95
) -> tuple[float, tuple[float, float]]:
    """measure / base with its paired percentile interval (same contexts in every draw).

    Where a proportion's count is small the upper end is at least the exact upper bound over the
    base's value, so that none of few continuations does not read as certainty.
    """
    weights = resampling_counts(measure.n_contexts)
    below = base.draws(weights)
    ratios = np.divide(
        measure.draws(weights), below, out=np.full(len(below), np.nan), where=below > 0
    )
    if base.value <= 0 or np.isnan(ratios).all():
        return float("nan"), (float("nan"), float("nan"))
    tail = (1 - level) / 2
    low, high = np.nanquantile(ratios, [tail, 1 - tail])
    if measure.proportion and measure.numerator.sum() < SMALL_COUNT:
        high = max(high, _upper(measure, level) / base.value)
    return measure.value / base.value, (float(low), float(high))


def paired_difference(
    measure: ClusterMean, other: ClusterMean, level: float = 0.95
) -> tuple[float, tuple[float, float]]:
    """measure - other with its paired percentile interval (same contexts in every draw).

    Where a proportion's count is small, the end that it decides is at least the exact bound's, as
    in `paired_ratio`.
    """
    weights = resampling_counts(measure.n_contexts)
    drawn = measure.draws(weights) - other.draws(weights)
    tail = (1 - level) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    if measure.proportion and measure.numerator.sum() < SMALL_COUNT:
        high = max(high, _upper(measure, level) - other.value)
    if other.proportion and other.numerator.sum() < SMALL_COUNT:
        low = min(low, measure.value - _upper(other, level))
    return measure.value - other.value, (float(low), float(high))


def _upper(measure: ClusterMean, level: float) -> float:
    count, total = int(measure.numerator.sum()), int(measure.denominator.sum())
    return exact_interval(count, total, level)[1]
