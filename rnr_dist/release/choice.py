"""Who wins among candidate models under the rules, and the weight of one step of Eq. 1.

In: named candidates and the step that they would take. Out: the winner with every trial.
Invariant: all candidates are read once and the best of them again on fresh samples, which alone
decide; so no winner owes its place to luck in the ranking.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rnr_dist.config.release import Coefficients, Release
from rnr_dist.release.reader import Reader
from rnr_dist.release.rules import MergeStep, Reading, Verdict, judge, ranked
from rnr_dist.types import Adapter, ModelRef


@dataclass(frozen=True)
class Trial:
    """One reading of a candidate and what the rules said; `draw` is 1 where samples were fresh."""

    candidate: str
    draw: int
    verdict: Verdict


@dataclass(frozen=True)
class Choice:
    """The winner, its fresh reading and all trials; an infeasible verdict marks the fallback."""

    candidate: str
    reading: Reading
    verdict: Verdict
    trials: tuple[Trial, ...]

    @property
    def dead(self) -> int:
        """Candidates that lost on utility before anything was generated from them."""
        return sum(trial.verdict.dead for trial in self.trials if not trial.draw)


def choose(
    reader: Reader,
    name: str,
    step: MergeStep,
    models: Mapping[str, ModelRef],
    also: Sequence[str] = (),
) -> Choice:
    """The candidate that takes `step` best. The best `reread` and `also` are read again."""
    rules = reader.rules
    readings = reader.read_all(name, models, range(1), step)
    trials = deciding = _trials(readings, 0, step, rules)
    if rules.reread:
        order = ranked([trial.verdict for trial in trials], step.kind, rules)
        best = [trials[position].candidate for position in order[: rules.reread]]
        again = {label: models[label] for label in dict.fromkeys([*best, *also])}
        readings = reader.read_all(name, again, range(1, 1 + rules.reread_draws), step)
        deciding = _trials(readings, 1, step, rules)
        trials = [*trials, *deciding]
    winner = deciding[ranked([trial.verdict for trial in deciding], step.kind, rules)[0]]
    reading = readings[winner.candidate]
    if reading.forget is None:
        # A fallback that was never generated from: later steps compare with it, so read it all.
        reading = reader.read(models[winner.candidate], "whole")
    return Choice(winner.candidate, reading, winner.verdict, tuple(trials))


@dataclass(frozen=True)
class WeightChoice:
    """The weight of a step, by which candidate each weight was, and the choice among them."""

    weight: float
    weights: Mapping[str, float]
    choice: Choice


def choose_weight(
    reader: Reader,
    name: str,
    step: MergeStep,
    model: ModelRef,
    adapter: Adapter,
    coefficients: Coefficients,
) -> WeightChoice:
    """The weight with which `adapter` takes `step` from `model`, among `candidates`."""
    weights = {f"{weight:g}": weight for weight in candidates(coefficients)}
    models = {label: with_adapter(model, step, w, adapter) for label, w in weights.items()}
    choice = choose(reader, name, step, models)
    return WeightChoice(weights[choice.candidate], weights, choice)


def with_adapter(model: ModelRef, step: MergeStep, weight: float, adapter: Adapter) -> ModelRef:
    """The model with the adapter added, or subtracted, by this weight."""
    return model.plus(weight if step.kind == "add" else -weight, adapter)


def candidates(coefficients: Coefficients) -> list[float]:
    """Geometrically spaced weights, both ends included, to three digits, each once."""
    spaced = np.geomspace(coefficients.low, coefficients.high, coefficients.trials)
    return list(dict.fromkeys(float(f"{value:.3g}") for value in spaced))


def _trials(
    readings: Mapping[str, Reading], draw: int, step: MergeStep, rules: Release
) -> list[Trial]:
    return [Trial(label, draw, judge(read, step, rules)) for label, read in readings.items()]
