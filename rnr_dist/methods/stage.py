"""The stage `baselines`: the methods beside the recipe's own, on one budget, in one table with it.

In: what the recipe has evaluated, the task's materials. Out: a model and a row a method, results of
all rows. Invariant: no method begins before all of them are known to be served.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rnr_dist.bench import Bench
from rnr_dist.config.methods import way_of
from rnr_dist.config.schema import Config
from rnr_dist.machine.cluster import trainings_at_once
from rnr_dist.machine.threads import side_by_side
from rnr_dist.measures.results import Results, Row, read_results
from rnr_dist.methods.merge import Budget, Ground, run_merged, trained_tokens
from rnr_dist.methods.method import Method, make_method, require_served, require_trainable
from rnr_dist.release.reader import Reader
from rnr_dist.run.directory import RunDir, read, read_json, write
from rnr_dist.run.progress import say
from rnr_dist.tasks.evaluation import RESULTS, evaluate_models, run_models
from rnr_dist.tasks.task import Task
from rnr_dist.train.job import SUMMARY
from rnr_dist.types import ModelRef, NamedModel


@dataclass(frozen=True)
class Forgotten:
    """A method's model, and what its row says of how it came about."""

    name: str
    model: ModelRef
    notes: Mapping[str, Any]


def baselines_stage(bench: Bench, task: Task, run: RunDir) -> None:
    """Every method of `methods.run` by its way, then all measures of each, beside the recipe's."""
    own = read_results(run.path / "evaluate" / RESULTS)
    methods = compared_methods(bench.config, task)
    require_trainable(bench.config, Path(bench.base.checkpoint))
    folder, budget = run.stage("baselines"), spent(bench.config, run)
    say(f"budget of each method: {budget.tokens:,} tokens, {budget.candidates} candidates")
    merged = [method for method in methods if way_of(method.name, bench.config.way) == "merge"]
    ground = shared_ground(bench, task, run, merged, budget) if merged else None
    _ = bench.ray

    def one(method: Method) -> Forgotten:
        with bench.tracker.nested(f"method {method.name}", {}):
            if ground and method in merged:
                return _by_merge(bench, method, ground)
            return _by_epochs(bench, task, run, method)

    found = side_by_side(one, methods, trainings_at_once(bench.config))
    write(folder / "methods.json", found)
    models = [NamedModel(each.name, "method", each.model) for each in found]
    write(folder / "models.json", models)
    rows = evaluate_models(bench, task, models, folder / "evaluate")
    noted = [
        replace(row, notes={**row.notes, **each.notes})
        for row, each in zip(rows, found, strict=True)
    ]
    results = beside(own, noted, budget)
    write(folder / RESULTS, results)


def compared_methods(config: Config, task: Task) -> list[Method]:
    """The methods beside the recipe's own. Raises InputError where the task can't serve one."""
    methods = [make_method(name) for name in config.compared if name != config.own_method]
    for method in methods:
        require_served(method, task, way_of(method.name, config.way))
    return methods


def spent(config: Config, run: RunDir) -> Budget:
    """What the recipe's own method took, which every other method gets."""
    return _spent_by_epochs(config, run) if config.way == "epochs" else _spent_by_merge(run)


def _spent_by_merge(run: RunDir) -> Budget:
    """Tokens of every adapter of Eq. 1, candidates of every weight and of the front.

    Dead are the weights that lost on utility before they generated.
    """
    folder = run.path / "release"
    result = read(folder / "models.json", list[NamedModel])[-1].model
    found = read_json(folder / "search.json")
    trained = {term.adapter.digest: term.adapter for term in result.terms}
    first = [trial for trial in found["trials"] if not trial["draw"]]
    # The front's first point is the model that Eq. 1 ended with: no candidate of its own.
    front = max(0, len(found["front"]) - 1)
    dead = sum(trial["forget"] is None for trial in first)
    return Budget(sum(map(trained_tokens, trained.values())), len(first) + front, dead)


def _spent_by_epochs(config: Config, run: RunDir) -> Budget:
    result = read(run.path / "icu" / "models.json", list[NamedModel])[-1].model
    trained = result.terms[-1].adapter.path if result.terms else result.checkpoint
    return _by_places(config.own_method, run.path / "icu", read_json(Path(trained) / SUMMARY))


def _by_places(name: str, folder: Path, summary: Mapping[str, Any]) -> Budget:
    """What a method by epochs took: a place of its grid as much as its last training did.

    Each epoch is a candidate. Dead are those of places whose loss was no number.
    """
    places = read_json(folder / f"{name}.json")["places"]
    epochs, many = len(summary["epochs"]) - 1, max(1, len(places))
    lost = sum("lost" in place for place in places)
    return Budget(many * int(summary["tokens"]), many * epochs, lost * epochs)


def shared_ground(
    bench: Bench, task: Task, run: RunDir, methods: Sequence[Method], budget: Budget
) -> Ground:
    """What the methods that are merged share; only what they need is drawn."""
    from rnr_dist.train.trainings import Trainings

    folder = run.stage("baselines")
    needs = frozenset(need for method in methods for need in method.needs)
    # Where Eq. 1 was searched, its readings hold the base's, which all methods are compared with.
    own = "release" if bench.config.way == "merge" else "baselines"
    return Ground(
        next(named.model for named in run_models(run) if named.kind == "reference"),
        task.materials(bench, run, needs),
        Reader(bench, task, run.path / own / "readings"),
        Trainings(bench, folder),
        budget,
        folder,
    )


def _by_merge(bench: Bench, method: Method, ground: Ground) -> Forgotten:
    search = getattr(method, "search", None)  # of a method that has a search of its own
    settings = bench.config.methods.found(method.name)
    if search:
        merged = search(ground)
    else:
        assert settings, f"{method.name} has settings wherever it runs"
        merged = run_merged(method, settings, ground)
    bench.tracker.tag("candidate", merged.candidate)
    bench.tracker.tag("feasible", str(merged.feasible))
    told = ("candidate", "feasible", "broken", "tokens", "candidates", "dead")
    notes = {"way": "merge", **{key: getattr(merged, key) for key in told}}
    return Forgotten(method.name, merged.model, notes)


def _by_epochs(bench: Bench, task: Task, run: RunDir, method: Method) -> Forgotten:
    from rnr_dist.icu.stage import unlearn

    found = unlearn(bench, task, run, method)
    best = found.epochs[found.best]
    took = _by_places(method.name, run.stage("baselines"), found.summary)
    notes = {
        "way": "epochs",
        "candidate": f"epoch {found.best}",
        "feasible": best["violation"] == 0,
        "broken": [],
        "tokens": took.tokens,
        "candidates": took.candidates,
        "dead": took.dead,
    }
    return Forgotten(method.name, found.model, notes)


def beside(own: Results, rows: Sequence[Row], budget: Budget) -> Results:
    """The recipe's rows, its result with what it took, and the methods' rows."""
    result = [row for row in own.rows if row.kind == "step"][-1]
    took = {"tokens": budget.tokens, "candidates": budget.candidates, "dead": budget.dead}
    noted = replace(result, notes={**result.notes, **took})
    kept = [noted if row.name == result.name else row for row in own.rows]
    return replace(own, rows=(*kept, *rows))
