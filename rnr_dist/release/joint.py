"""All coefficients of Eq. 1 at once: the front of forgetting against utility, and its best model.

In: the composed model after the last iteration. Out: points, those of the front read again on
fresh samples, and the winner under the rules against the base. Invariant: the model that Eq. 1
ended with stands among the candidates that are read again, so the search can only improve on it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rnr_dist.measures.measure import Measures
from rnr_dist.release.choice import Choice, choose
from rnr_dist.release.reader import Reader
from rnr_dist.release.rules import MergeStep, Reading, utility
from rnr_dist.run.progress import progress_bar
from rnr_dist.types import ModelRef

AS_IT_WAS = "Eq. 1"


@dataclass(frozen=True)
class Point:
    """One set of coefficients, in the order of the terms, and what was read of its model.

    forget: the target measure, None where utility was lost before anything was generated. utility:
    u.
    fresh: the same two on fresh samples, where the point was read again. front: whether no other
    point that was read again is better in both.
    """

    candidate: str
    coefficients: tuple[float, ...]
    forget: float | None
    utility: float
    feasible: bool
    fresh: tuple[float, float] | None = None
    front: bool = False
    winner: bool = False


def search_jointly(
    model: ModelRef, start: Reading, reader: Reader
) -> tuple[Choice, ModelRef, list[Point]]:
    """The best of `joint.trials` sets of coefficients around those of `model`, and all points.

    start: the base's reading. Optuna's multi-objective TPE proposes factors within
    [1/spread, spread] of each coefficient, as many at a time as there are engines; the same seed
    and readings propose the same, so a search that was interrupted goes on where it was.
    """
    joint, measures = reader.rules.joint, reader.task.measures
    step = MergeStep.final(measures, start)
    models = {AS_IT_WAS: model}
    first = reader.read_all("joint", models, range(1), step)
    with progress_bar("joint search: sets of coefficients", joint.trials) as advance_to:
        proposals = _proposals(model, start, reader)
        for batch, told in proposals:
            found = reader.read_all("joint", batch, range(1), step)
            told.update(found)
            models, first = models | batch, first | found
            advance_to(len(models) - 1)
    seen = {
        label: (reading.forget.value, utility(reading, start, measures))
        for label, reading in first.items()
        if reading.forget
    }
    choice = choose(reader, "joint", step, models, [*pareto(seen), AS_IT_WAS])
    verdicts = {trial.candidate: trial.verdict for trial in choice.trials}  # the last of each
    fresh = {
        trial.candidate: (trial.verdict.forget, trial.verdict.utility)
        for trial in choice.trials
        if trial.draw and not math.isnan(trial.verdict.forget)
    }
    front = pareto(fresh)
    points = [
        Point(
            label,
            tuple(term.coefficient for term in models[label].terms),
            seen[label][0] if label in seen else None,
            utility(reading, start, measures),
            verdicts[label].feasible,
            fresh.get(label),
            label in front,
            label == choice.candidate,
        )
        for label, reading in first.items()
    ]
    return choice, models[choice.candidate], points


def pareto(points: dict[str, tuple[float, float]]) -> list[str]:
    """Labels of (forget, utility) that no other beats in one without losing in the other.

    By rising forget score.
    """
    front: list[str] = []
    highest = -math.inf
    for label, (_, kept) in sorted(points.items(), key=lambda item: (item[1][0], -item[1][1])):
        if kept > highest:
            front.append(label)
            highest = kept
    return front


def scaled(model: ModelRef, factors: Sequence[float]) -> ModelRef:
    """The model with each coefficient times its factor, to three digits."""
    terms = [
        replace(term, coefficient=float(f"{term.coefficient * factor:.3g}"))
        for term, factor in zip(model.terms, factors, strict=True)
    ]
    return replace(model, terms=tuple(terms))


def _proposals(
    model: ModelRef, start: Reading, reader: Reader
) -> Iterator[tuple[dict[str, ModelRef], dict[str, Reading]]]:
    """Batches of named candidates; the caller puts their readings into the dict beside them."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    joint, together = reader.rules.joint, reader.bench.config.engines.count
    measures: Measures = reader.task.measures
    warm_up = max(4, joint.trials // 3)
    sampler: Any = optuna.samplers.TPESampler(
        seed=reader.bench.config.seed,
        multivariate=True,
        constant_liar=True,
        n_startup_trials=warm_up,
    )
    study = optuna.create_study(directions=["minimize", "maximize"], sampler=sampler)
    names = [f"{number}-{term.adapter.side}" for number, term in enumerate(model.terms)]
    factor = optuna.distributions.FloatDistribution(1 / joint.spread, joint.spread, log=True)
    space: dict[str, Any] = dict.fromkeys(names, factor)
    for first in range(0, joint.trials, together):
        numbers = range(first + 1, min(first + together, joint.trials) + 1)
        asked = {f"joint {number}": study.ask(space) for number in numbers}
        told: dict[str, Reading] = {}
        yield (
            {
                label: scaled(model, [trial.params[name] for name in names])
                for label, trial in asked.items()
            },
            told,
        )
        for label, trial in asked.items():
            # What lost on utility was not generated from: no forgetting counts for it.
            forget = told[label].forget or start.forget
            assert forget
            study.tell(trial, [forget.value, utility(told[label], start, measures)])
