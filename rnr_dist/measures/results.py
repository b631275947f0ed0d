"""Results: models x measures x values by cluster, with what they were read on. One schema.

In: what tasks measured. Out: scores with intervals, paired against a reference row. Invariant: all
rows are read on the same clusters in the same order, so every difference is paired. Table, figures,
comparison, rules, MLflow and the summary read this and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from rnr_dist.errors import InputError
from rnr_dist.measures.measure import Measure, Measures
from rnr_dist.run.directory import read, read_json
from rnr_dist.stats import BOOTSTRAP_DRAWS, ClusterMean, interval, paired_difference, paired_ratio
from rnr_dist.types import RowKind, Split

SCHEMA_VERSION = 2
Interval = tuple[float, float]


@dataclass(frozen=True)
class Auc:
    """P(one of `lower` is below one of `higher`), ties a half: .5 where they can't be told apart.

    lower, higher: one number a sequence, of the two sets that are compared.
    """

    lower: tuple[float, ...]
    higher: tuple[float, ...]

    @property
    def value(self) -> float:
        return _auc(np.array(self.lower), np.array(self.higher))

    @property
    def n_contexts(self) -> int:
        return len(self.lower)

    def interval(self, level: float = 0.95) -> Interval:
        """Percentile bootstrap over the members of both sets."""
        draw = np.random.default_rng(0)
        low, high = np.array(self.lower), np.array(self.higher)
        drawn = [
            _auc(draw.choice(low, len(low)), draw.choice(high, len(high)))
            for _ in range(BOOTSTRAP_DRAWS)
        ]
        tail = (1 - level) / 2
        first, last = np.quantile(drawn, [tail, 1 - tail])
        return float(first), float(last)


Estimate = ClusterMean | Auc


@dataclass(frozen=True)
class Score:
    """A figure as people read it: value, interval, and the ratio to the reference row's.

    n_clusters: contexts, windows or sequences. n_samples: what the denominators count,
    continuations or tokens. ratio: None for the reference itself, nan where its value is 0.
    """

    value: float
    ci95: Interval
    n_clusters: int
    n_samples: int
    ratio: float | None = None
    ratio_ci95: Interval | None = None


@dataclass(frozen=True)
class Row:
    """One model: its digest, what it was read on, its values by measure, and notes.

    kind: as of `types.NamedModel`. notes: plain values that belong to the row: the terms of Eq. 1,
    the budget, the best epoch.
    """

    name: str
    kind: RowKind
    model: str
    split: Split
    values: Mapping[str, Estimate]
    notes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Results:
    """The rows of a table. `reference` names the row that the others are compared with."""

    measures: tuple[Measure, ...]
    rows: tuple[Row, ...]
    reference: str
    schema_version: int = SCHEMA_VERSION

    @property
    def declared(self) -> Measures:
        return Measures(self.measures)

    def row(self, name: str) -> Row:
        """The row of that name. Raises KeyError."""
        return {row.name: row for row in self.rows}[name]

    @cached_property
    def scores(self) -> dict[str, dict[str, Score]]:
        """Every row's scores by measure, in the order of the rows."""
        base = self.row(self.reference)
        return {row.name: _scores(row, base) for row in self.rows}

    def difference(self, measure: str, row: str, other: str) -> tuple[float, Interval]:
        """row - other of a measure, with its paired 95 % interval."""
        pair = self.row(row).values[measure], self.row(other).values[measure]
        one, two = pair
        assert isinstance(one, ClusterMean) and isinstance(two, ClusterMean)
        return paired_difference(one, two)


def read_results(path: Path) -> Results:
    """The results that a stage evaluated. Raises InputError where `path` holds none of these."""
    try:
        content = read_json(path)
    except (OSError, ValueError):
        content = None
    if not isinstance(content, dict):
        raise InputError(f"{path}: no readable results; expected an evaluated run's")
    version = content.get("schema_version")
    if version != SCHEMA_VERSION:
        raise InputError(f"{path}: found schema_version {version}, expected {SCHEMA_VERSION}")
    found: Results = read(path, Results)
    return found


def _scores(row: Row, base: Row) -> dict[str, Score]:
    return {name: _score(value, base, row, name) for name, value in row.values.items()}


def _score(value: Estimate, base: Row, row: Row, name: str) -> Score:
    if isinstance(value, Auc):
        return Score(value.value, value.interval(), value.n_contexts, value.n_contexts)
    ratio: float | None = None
    bounds: Interval | None = None
    reference = base.values.get(name)
    if row.name != base.name and isinstance(reference, ClusterMean):
        ratio, bounds = paired_ratio(value, reference)
    return Score(
        value.value,
        interval(value),
        value.n_contexts,
        int(value.denominator.sum()),
        ratio,
        bounds,
    )


def _auc(lower: np.ndarray, higher: np.ndarray) -> float:
    less = (lower[:, None] < higher[None, :]).mean()
    equal = (lower[:, None] == higher[None, :]).mean()
    return float(less + equal / 2)
