"""The stage `release`: Eq. 1 under the 90 %/95 % rules, and the retain-only control.

In: the materials that reveal and the task give. Out: models.json with every row of the table,
search.json with every candidate. Invariant: what is finished within is a file, so it goes on there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rnr_dist.bench import Bench
from rnr_dist.release.candidates import trial_rows
from rnr_dist.release.joint import AS_IT_WAS, Point, search_jointly
from rnr_dist.release.loop import ReleasedStep, release
from rnr_dist.release.reader import Reader
from rnr_dist.release.rules import Reading
from rnr_dist.run.directory import RunDir, write
from rnr_dist.run.progress import say
from rnr_dist.tasks.task import Task
from rnr_dist.tasks.teaching import taught_model
from rnr_dist.train.collate import Example, Item, texts
from rnr_dist.train.materials import Materials, Need
from rnr_dist.train.trainings import Trainings
from rnr_dist.types import Adapter, ModelRef, NamedModel, Side

MODELS = "models.json"
NEEDS: frozenset[Need] = frozenset({"forget", "retain"})


@dataclass(frozen=True)
class Released:
    """What Eq. 1, and the joint search after it, came to. steps: `NamedModel`s, the result last."""

    models: tuple[NamedModel, ...]
    steps: tuple[ReleasedStep, ...]
    start: Reading
    fallbacks: tuple[str, ...]
    front: tuple[Point, ...]

    @property
    def result(self) -> ModelRef:
        return self.models[-1].model


@dataclass(frozen=True)
class Adapters:
    """Trains the adapters of Eq. 1 on the run's materials, each once."""

    bench: Bench
    trainings: Trainings
    items: Mapping[Side, list[Item]]

    @classmethod
    def of(cls, bench: Bench, materials: Materials, folder: Path) -> Adapters:
        forget = [Example(one.token_ids, one.prefix_tokens) for one in materials.forget]
        items: dict[Side, list[Item]] = {"forget": texts(forget), "retain": texts(materials.retain)}
        return cls(bench, Trainings(bench, folder), items)

    def train(self, name: str, side: Side, model: ModelRef) -> Adapter:
        rules = self.bench.config.release
        training = rules.forget if side == "forget" else rules.retain
        return self.trainings.adapter(name, self.items[side], training, side, model)


def release_stage(bench: Bench, task: Task, run: RunDir) -> None:
    """Eq. 1 from the base, and the model that was only retained, by as much as the result."""
    folder = run.stage("release")
    adapters = Adapters.of(bench, task.materials(bench, run, NEEDS), folder)
    reader = Reader(bench, task, folder / "readings")
    released = release_from(bench.base, adapters, reader, folder)
    # Where the model was taught first, that stage has named what the others are compared with.
    rows = [] if taught_model(run) else [NamedModel("base", "reference", bench.base)]
    terms = released.result.terms
    restored = sum(term.coefficient for term in terms if term.adapter.side == "retain")
    if restored:
        alone = adapters.train("retain-only", "retain", bench.base)
        rows.append(NamedModel("retain-only", "control", bench.base.plus(restored, alone)))
    write(folder / "search.json", found_by(released, reader))
    write(folder / MODELS, [*rows, *released.models])


def release_from(base: ModelRef, adapters: Adapters, reader: Reader, folder: Path) -> Released:
    """Eq. 1 from any base, and the joint search over its weights where the rules ask for one."""
    steps = release(base, adapters.train, reader, folder, partial(_log_step, reader.bench))
    start = reader.read(base)
    models = [NamedModel(step.name, "step", step.model) for step in steps]
    fallbacks = [step.name for step in steps if not step.feasible]
    points: list[Point] = []
    if reader.rules.joint.trials:
        choice, result, points = search_jointly(steps[-1].model, start, reader)
        _log_points(reader, points)
        assert choice.reading.forget  # read whole, also where the candidate had lost before
        title, value = reader.task.measures.target.title, choice.reading.forget.value
        say(f"joint search: {choice.candidate}, {title} {value:.2%}")
        if choice.candidate != AS_IT_WAS:
            models.append(NamedModel("joint", "step", result))
            fallbacks += ["joint"] * (not choice.verdict.feasible)
    return Released(tuple(models), tuple(steps), start, tuple(fallbacks), tuple(points))


def found_by(released: Released, reader: Reader) -> dict[str, Any]:
    """What the search for weights tried, for summary, tables and figures."""
    return {
        "fallbacks": released.fallbacks,
        "trials": trial_rows(released.steps, released.start, reader),
        "front": released.front,
    }


def _log_step(bench: Bench, step: ReleasedStep) -> None:
    tracker = bench.tracker
    with tracker.nested(f"step {step.name}", {"coefficient": step.coefficient}):
        tracker.tag("feasible", str(step.feasible))
    verdict = f"rule {step.rule}" if step.feasible else f"fallback ({', '.join(step.broken)})"
    say(f"{step.name}: weight {step.coefficient:g} by {verdict}")


def _log_points(reader: Reader, points: list[Point]) -> None:
    bench = reader.bench
    with bench.tracker.nested("joint search", reader.rules.joint.model_dump()):
        for number, point in enumerate(points):
            told = {"utility": point.utility, "forget": point.forget}
            bench.tracker.metrics({key: v for key, v in told.items() if v is not None}, number)
