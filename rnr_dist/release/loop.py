"""Eq. 1: subtract, then add and subtract for t iterations, each weight searched under the rules.

In: the base, a way to train its adapters, a reader. Out: the model after every step, with trials.
Invariant: each adapter is trained on the composed model of that moment, and every step's choice is
a file before the next step begins, so a resumed loop goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from rnr_dist.config.release import Coefficients, Release
from rnr_dist.release.choice import WeightChoice, choose_weight, with_adapter
from rnr_dist.release.reader import Reader
from rnr_dist.release.rules import MergeStep, Reading, Verdict, judge, ranked
from rnr_dist.run.directory import read, write
from rnr_dist.run.progress import say
from rnr_dist.types import Adapter, ModelRef, Side
from rnr_dist.weights.composition import is_whole

Kind = Literal["subtract", "add"]
Train = Callable[[str, Side, ModelRef], Adapter]


@dataclass(frozen=True)
class PlannedStep:
    """A step of Eq. 1 to come: `-f0`, `+r1`, `-f1`... with the range of its weight."""

    name: str
    kind: Kind
    coefficients: Coefficients
    last: bool

    @property
    def side(self) -> Side:
        """Of the adapter that the step merges."""
        return "retain" if self.kind == "add" else "forget"


@dataclass(frozen=True)
class ReleasedStep:
    """One step of Eq. 1: its weight, the model after it, its reading, and every trial.

    feasible: whether a rule held; else the least violation won and `broken` says what was missed.
    """

    name: str
    kind: Kind
    last: bool
    coefficient: float
    feasible: bool
    rule: str
    broken: tuple[str, ...]
    model: ModelRef
    reading: Reading
    trials: tuple[dict[str, Any], ...]


def release(
    base: ModelRef,
    train: Train,
    reader: Reader,
    folder: Path,
    on_step: Callable[[ReleasedStep], None],
) -> list[ReleasedStep]:
    """Run Eq. 1 with `release.iterations` = t; `on_step` hears of each finished step.

    With `release.stop_early` a cycle stays only if the model that it ends with wins, under the
    rules of the last subtraction, against the one before it; else it is left out and the loop ends.
    """
    say("reading the base model on the search split")
    rules, measures = reader.rules, reader.task.measures
    start = reader.read(base)
    model, before, cycle_start = base, start, start
    steps: list[ReleasedStep] = []
    ended: list[Verdict] = []  # of the models after each subtraction
    for planned in plan(rules):
        path = folder / "steps" / f"{len(steps)}{planned.name}.json"
        step = read(path, ReleasedStep) if path.exists() else None
        if step is None or not all(is_whole(term.adapter) for term in step.model.terms):
            taken = MergeStep(measures, planned.kind, start, before, cycle_start, planned.last)
            step = _take(planned, taken, model, train, reader)
            write(path, step)
        if planned.kind == "subtract":
            cycle_start = before
        model, before = step.model, step.reading
        steps.append(step)
        on_step(step)
        if planned.kind == "subtract":
            ended.append(judge(step.reading, MergeStep.final(measures, start), rules))
            lost = len(ended) > 1 and ranked(ended[-2:], "subtract", rules)[0] == 0
            if lost and rules.stop_early:
                say(f"{steps[-2].name} and {step.name} gained nothing: left out, and the loop ends")
                return steps[:-2]
    return steps


def _take(
    planned: PlannedStep, step: MergeStep, model: ModelRef, train: Train, reader: Reader
) -> ReleasedStep:
    """Train the step's adapter on the model of this moment and search its weight."""
    adapter = train(planned.name, planned.side, model)
    say(f"searching the weight of {planned.name}")
    found = choose_weight(reader, planned.name, step, model, adapter, planned.coefficients)
    verdict = found.choice.verdict
    return ReleasedStep(
        planned.name,
        planned.kind,
        planned.last,
        found.weight,
        verdict.feasible,
        verdict.rule,
        verdict.broken,
        with_adapter(model, step, found.weight, adapter),
        found.choice.reading,
        _told(planned.name, found),
    )


def _told(name: str, found: WeightChoice) -> tuple[dict[str, Any], ...]:
    """The trials as plain values, with the weight that each was."""
    return tuple(
        {
            "step": name,
            "coefficient": found.weights[trial.candidate],
            "draw": trial.draw,
            **asdict(trial.verdict),
            "feasible": trial.verdict.feasible,
        }
        for trial in found.choice.trials
    )


def plan(rules: Release) -> list[PlannedStep]:
    """Steps of Eq. 1 in order: -f0, then +r1, -f1, ... +rt, -ft."""
    steps = [PlannedStep("-f0", "subtract", rules.mu0, rules.iterations == 0)]
    for iteration in range(1, rules.iterations + 1):
        steps.append(PlannedStep(f"+r{iteration}", "add", rules.lam, False))
        last = iteration == rules.iterations
        steps.append(PlannedStep(f"-f{iteration}", "subtract", rules.mu, last))
    return steps
