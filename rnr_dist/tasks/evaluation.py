"""Every row of the table: all measures of a model by its task, once.

In: named models. Out: `Results`. Invariant: what was read of a model is a file that names it, and
is not read again; every model of a run is read on the same clusters, so all differences are paired.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rnr_dist.bench import Bench
from rnr_dist.measures.results import Auc, Estimate, Results, Row
from rnr_dist.run.directory import RunDir, read, write
from rnr_dist.stats import ClusterMean
from rnr_dist.tasks.task import Task
from rnr_dist.types import ModelRef, NamedModel
from rnr_dist.weights.checkpoints import resolve_model

STAGES_WITH_MODELS = ("teach", "memorise", "release", "icu")
RESULTS = "results.json"


@dataclass(frozen=True)
class Measured:
    """What was read of one model, in a file of its own."""

    name: str
    model: str
    values: dict[str, ClusterMean | Auc]


def run_models(run: RunDir) -> list[NamedModel]:
    """The models that the run's stages made, in their order."""
    paths = [run.path / stage / "models.json" for stage in STAGES_WITH_MODELS]
    return [model for path in paths if path.exists() for model in read(path, list[NamedModel])]


def evaluate_models(
    bench: Bench, task: Task, models: Sequence[NamedModel], folder: Path
) -> list[Row]:
    """A row for each model, in their order."""
    return [_row(bench, task, named, _measured(bench, task, named, folder)) for named in models]


def evaluate_stage(bench: Bench, task: Task, run: RunDir) -> None:
    """Reference, controls, steps and further models on the evaluated split."""
    models = run_models(run)
    if bench.config.evaluate.steps == "ends":
        steps = [named for named in models if named.kind == "step"]
        models = [named for named in models if named.kind != "step"] + steps[-1:]
    trusted = bench.config.trust_remote_code
    for name, model in bench.config.evaluate.others.items():  # last: each takes its own engines
        models.append(NamedModel(name, "other", resolve_model(model, trusted)))
    folder = run.stage("evaluate")
    rows = evaluate_models(bench, task, models, folder)
    [reference] = [named.name for named in models if named.kind == "reference"]
    results = Results(task.measures.declared, tuple(rows), reference)
    write(folder / RESULTS, results)
    result = [row for row in rows if row.kind == "step"][-1]
    bench.tracker.headline({name: value.value for name, value in result.values.items()})


def _measured(bench: Bench, task: Task, named: NamedModel, folder: Path) -> dict[str, Estimate]:
    path = folder / f"{named.name}.json"
    if path.exists():
        known = read(path, Measured)
        if known.model == named.model.digest:
            return dict(known.values)
    with bench.tracker.nested(f"evaluate {named.name}", {}):
        found = task.evaluate(bench, named.model, named.name, folder)
        bench.tracker.metrics({name: value.value for name, value in found.items()})
    write(path, Measured(named.name, named.model.digest, dict(found)))
    return found


def _row(bench: Bench, task: Task, named: NamedModel, values: dict[str, Estimate]) -> Row:
    notes: dict[str, Any] = {"terms": _terms(named.model)}
    # What compares models of one vocabulary only is not read of one that has another.
    if left_out := [one.name for one in task.measures if one.name not in values]:
        notes["left_out"] = left_out
    split = bench.config.evaluate.split
    return Row(named.name, named.kind, named.model.digest, split, values, notes)


def _terms(model: ModelRef) -> list[dict[str, Any]]:
    """The terms of Eq. 1 in order, as a reader of the table wants them."""
    return [
        {
            "role": term.adapter.side,
            "coefficient": term.coefficient,
            "adapter": term.adapter.digest,
        }
        for term in model.terms
    ]
