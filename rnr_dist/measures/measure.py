"""Measures as they are declared: what a figure is called, which way is better, what it is for.

In: a declaration beside the function that computes it. Out: `Measure`s that tables, figures, rules,
MLflow and comparisons read. Invariant: no measure's name is ever parsed; whatever must be known of
it stands here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

import numpy as np

from rnr_dist.stats import ClusterMean


class Role(StrEnum):
    """What a measure is for. The 90 % rule reads the target, the 95 % rule the utilities (the
    lowest ratio counts), and a guard tells a model that has forgotten from one that is broken."""

    TARGET = "target"
    UTILITY = "utility"
    GUARD = "guard"
    INFORMATION = "information"


@dataclass(frozen=True)
class Measure:
    """One declared measure.

    name: unique within a task, as files hold it. title: of a table's column. unit: `share`,
    `perplexity`, `nats`, `bits`, `tokens`, `score`. group: of the contexts or texts that it is read
    on. adds: how its clusters add up: `mean` (sum over sum), `exp` (of that mean: perplexity),
    `share` (0/1 counts, for which exact bounds exist), `auc` (of two sets). cluster: what is
    resampled: a context, a window, a sequence. style: how a value is printed. table: the table that
    shows it; "" shows it in files only. compared: whether a table tells the change against the
    reference. hidden: whether it took no part in training, stopping or choosing, so that a result
    which has forgotten should lie where its control does.
    """

    name: str
    title: str
    unit: str
    better: Literal["lower", "higher", "neither"]
    role: Role = Role.INFORMATION
    group: str = ""
    adds: Literal["mean", "exp", "share", "auc"] = "mean"
    cluster: str = "context"
    style: str = ".2f"
    table: str = ""
    compared: bool = True
    hidden: bool = False

    def of(self, numerator: Iterable[float], denominator: Iterable[float]) -> ClusterMean:
        """Its value from (clusters,) sums, in the order that every model shares."""
        return ClusterMean(
            np.array(list(numerator), float),
            np.array(list(denominator), float),
            exponential=self.adds == "exp",
            proportion=self.adds == "share",
        )

    def mean(self, values: Iterable[float]) -> ClusterMean:
        """Its value as the mean of one number a cluster."""
        held = list(values)
        return self.of(held, np.ones(len(held)))

    def kept(self, value: float, reference: float) -> float:
        """The share of the reference's quality that is left; 1 for the reference itself."""
        if self.better == "lower":
            return reference / value if value else float("inf")
        return value / reference if reference else float("nan")


@dataclass(frozen=True)
class Measures:
    """The measures that a task declares, in the order of tables."""

    declared: tuple[Measure, ...]

    def __iter__(self) -> Iterator[Measure]:
        return iter(self.declared)

    def __getitem__(self, name: str) -> Measure:
        """The measure of that name. Raises KeyError."""
        return self._by_name[name]

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    @property
    def _by_name(self) -> dict[str, Measure]:
        return {measure.name: measure for measure in self.declared}

    @property
    def target(self) -> Measure:
        """The one that the 90 % rule reads."""
        [found] = self.of(Role.TARGET)
        return found

    def of(self, role: Role) -> tuple[Measure, ...]:
        return tuple(measure for measure in self.declared if measure.role is role)

    def tables(self) -> dict[str, tuple[Measure, ...]]:
        """Columns of each table, by its title, in order."""
        titles = dict.fromkeys(measure.table for measure in self.declared if measure.table)
        return {
            title: tuple(measure for measure in self.declared if measure.table == title)
            for title in titles
        }


def problem_with(measures: Sequence[Measure]) -> str:
    """What is wrong with a task's declarations, as the end of a sentence; "" where nothing is."""
    names = [measure.name for measure in measures]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        return f"declares the measure {twice[0]} twice"
    targets = sum(measure.role is Role.TARGET for measure in measures)
    if targets != 1:
        return f"declares {targets} target measures, expected one"
    if not any(measure.role is Role.UTILITY for measure in measures):
        return "declares no utility measure, expected one at least"
    return ""
