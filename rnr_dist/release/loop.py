"""Eq. 1: subtract, then add and subtract for t iterations, each weight searched under the rules.

In: the base, forget and retain examples. Out: the model after every step, with its trials.
Invariant: each adapter is trained on the composed model of that moment, and every step's choice is
a file before the next step begins, so a resumed loop goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rnr_dist.config.schema import Coefficients, Config
from rnr_dist.release.choice import Choice, Reader
from rnr_dist.release.joint import Point
from rnr_dist.release.merge_search import search_weight
from rnr_dist.release.rules import Reading, Step, Verdict, judge, ranked
from rnr_dist.run.directory import read, write
from rnr_dist.run.progress import say
from rnr_dist.types import Adapter, ModelRef

RELEASED = Path("release", "models.json")  # in a run directory
Role = Literal["forget", "retain"]
Train = Callable[[str, Role, ModelRef], Adapter]


@dataclass(frozen=True)
class ReleasedStep:
    """One step of Eq. 1: its name (`-f0`, `+r1`), the weight, the model after it, its trials."""

    name: str
    coefficient: float
    feasible: bool
    rule: str
    broken: tuple[str, ...]
    model: ModelRef
    reading: Reading
    trials: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class ReleasedModel:
    """A model that the release passed through, and what it is called."""

    name: str
    model: ModelRef


@dataclass(frozen=True)
class Released:
    """All that the release leaves behind, in `RELEASED`.

    `steps` ends with the result, `control` has the retain adapters alone, `fallbacks` are steps
    whose rules no candidate met, `trials` and `front` are for the summary.
    """

    base: ModelRef
    control: ModelRef
    steps: tuple[ReleasedModel, ...]
    fallbacks: tuple[str, ...] = ()
    trials: tuple[dict[str, Any], ...] = ()
    front: tuple[Point, ...] = ()


def release(
    config: Config,
    base: ModelRef,
    train: Train,
    reader: Reader,
    folder: Path,
    on_step: Callable[[ReleasedStep], None],
) -> list[ReleasedStep]:
    """Run Eq. 1 with `config.release.iterations` = t; `on_step` hears of each finished step.

    With `release.stop_early` a cycle stays only if the model that it ends with wins, under the
    rules of the last subtraction, against the one before it; else it is left out and the loop ends.
    """
    say("reading the base model on the search split")
    start = reader.read(base)
    model, before, cycle_start = base, start, start
    steps: list[ReleasedStep] = []
    ended: list[Verdict] = []  # of the models after each subtraction
    for name, role, coefficients in plan(config):
        last = name == f"-f{config.release.iterations}"
        path = folder / "steps" / f"{len(steps)}{name}.json"
        if path.exists():
            step = read(path, ReleasedStep)
        else:
            adapter = train(name, role, model)
            kind: Literal["subtract", "add"] = "subtract" if role == "forget" else "add"
            say(f"searching the weight of {name}")
            taken = Step(kind, start, before, cycle_start, last)
            weight, choice = search_weight(name, taken, model, adapter, coefficients, reader)
            signed = weight if role == "retain" else -weight
            step = _released(name, weight, model.plus(signed, adapter), choice)
            write(path, step)
        if role == "forget":
            cycle_start = before
        model, before = step.model, step.reading
        steps.append(step)
        on_step(step)
        if role == "forget":
            final = Step("subtract", start, start, start, last=True)
            ended.append(judge(step.reading, final, config.release))
            lost = len(ended) > 1 and ranked(ended[-2:], "subtract", config.release)[0] == 0
            if lost and config.release.stop_early:
                say(f"{steps[-2].name} and {name} gained nothing: left out, and the loop ends")
                return steps[:-2]
    return steps


def _released(name: str, weight: float, model: ModelRef, choice: Choice) -> ReleasedStep:
    trials = []
    for trial in choice.trials:
        content = trial.row()
        trials.append({"step": name, "coefficient": float(content.pop("candidate")), **content})
    verdict = choice.verdict
    return ReleasedStep(
        name,
        weight,
        verdict.feasible,
        verdict.rule,
        verdict.broken,
        model,
        choice.reading,
        tuple(trials),
    )


def plan(config: Config) -> list[tuple[str, Role, Coefficients]]:
    """Steps of Eq. 1 in order: -f0, then +r1, -f1, ... +rt, -ft."""
    rules = config.release
    steps: list[tuple[str, Role, Coefficients]] = [("-f0", "forget", rules.mu0)]
    for iteration in range(1, rules.iterations + 1):
        steps.append((f"+r{iteration}", "retain", rules.lam))
        steps.append((f"-f{iteration}", "forget", rules.mu))
    return steps
