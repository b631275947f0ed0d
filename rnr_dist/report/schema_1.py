"""Summaries of schema 1, which each recipe wrote in a form of its own, as schema 2 has them.

In: the content of a file. Out: the content of one of schema 2, as plain values. Invariant: what
schema 1 did not hold is empty (declarations of measures), `final` (the split) or 0 (counts).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rnr_dist.errors import InputError

Plain = dict[str, Any]
BUDGET = ("tokens", "candidates", "candidate", "feasible", "broken")
TRAINED = ("best", "met", "tokens", "seconds", "reading_seconds")


def from_schema_1(content: Mapping[str, Any], path: Path) -> Plain:
    """`content` of `path` as schema 2 has it. Raises InputError for what is no summary at all."""
    try:
        if "steps" in content:
            own = _released(content)
        elif "limits" in content:
            own = _unlearned(content)
        else:
            own = _compared(content)
        return {**_shared(content), **own}
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path}: found neither schema_version 2 nor a whole summary of schema 1 ({error}); "
            "expected a finished run's"
        ) from error


def _shared(content: Mapping[str, Any]) -> Plain:
    config = content["config"]
    seed = content.get("seed", config.get("seed", 0))
    return {
        "config": config,
        "recipe": "unlearn-sequences" if "memorise" in config else "reveal-and-release",
        "task": config.get("task", {}).get("name", ""),
        "preset": content.get("preset", "default"),
        "seeds": content.get("seeds", {"seed": seed}),
        "versions": content["versions"],
        "stages": content.get("stages", []),
        "measures": [],
        "notes": content.get("notes", []),
        "schema_version": 2,
    }


def _released(content: Mapping[str, Any]) -> Plain:
    """A summary of reveal and release."""
    rows = []
    for step in content["steps"]:
        terms = step["coefficients"]
        kind = "step" if terms else "reference"
        if terms and all(term["role"] == "retain" for term in terms):
            kind = "control"
        scores = {name: _score(score, "vs_base") for name, score in step["scores"].items()}
        split = next((score["split"] for score in step["scores"].values()), "final")
        notes = {"terms": terms} if terms else {}
        rows.append(_row(step["name"], kind, scores, notes, step["model"], split))
    details = {key: content.get(key, []) for key in ("trials", "front", "subspaces")}
    reference = content["steps"][0]["name"]
    return {
        "reference": reference,
        "rows": rows,
        "details": {"fills": content["reveal"], **details},
    }


def _unlearned(content: Mapping[str, Any]) -> Plain:
    """A summary of given sequences, alone or with other methods beside."""
    rows, curves, tuning = [], {}, {}
    for row in content["rows"]:
        name = row["name"]
        scores = {key: _score(score, "vs_memorised") for key, score in row["scores"].items()}
        value, *ends = row["auc"]
        scores["auc"] = {"value": value, "ci95": ends, "n_clusters": 0, "n_samples": 0}
        if row["epochs"]:
            curves[name] = row["epochs"]
            tuning[name] = row.get("tuning", {})
        kinds = {"memorised": "reference", "control": "control", "icu": "step"}
        kind = kinds.get(name, "method" if row["epochs"] else "other")
        rows.append(_row(name, kind, scores, {key: row[key] for key in TRAINED if key in row}))
    details = {"limits": content["limits"], "curves": curves, "tuning": tuning}
    return {"reference": "memorised", "rows": rows, "details": details}


def _compared(content: Mapping[str, Any]) -> Plain:
    """Methods beside reveal and release."""
    rows = []
    for row in content["rows"]:
        name = row["name"]
        scores = {key: _score(score, "vs_base") for key, score in row["scores"].items()}
        kind = {"base": "reference", "R&R": "step"}.get(
            name, "method" if row["tokens"] else "control"
        )
        notes = {key: row[key] for key in BUDGET if row[key] is not None}
        made = _row(name, kind, scores, notes, split=content["split"])
        made["against_own"] = {
            key: {"value": found["difference"], "ci95": found["ci95"]}
            for key, found in row["against_ours"].items()
        }
        rows.append(made)
    return {"reference": "base", "rows": rows}


def _row(
    name: str, kind: str, scores: Plain, notes: Plain, model: str = "", split: str = "final"
) -> Plain:
    return {
        "name": name, "kind": kind, "model": model, "split": split, "scores": scores, "notes": notes
    }  # fmt: skip


def _score(score: Mapping[str, Any], versus: str) -> Plain:
    against = score.get(versus) or {}
    return {
        "value": score["value"],
        "ci95": score["ci95"],
        "n_clusters": score.get("n_contexts", 0),
        "n_samples": score.get("n_samples", 0),
        "ratio": against.get("ratio"),
        "ratio_ci95": against.get("ci95"),
    }
