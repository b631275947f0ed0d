"""Eq. 1 as one method among others: on any model that is to forget, within the shared budget.

In: what all methods share. Out: a `Merged`. Invariant: its adapters share the tokens that every
method has, and its weights the candidates, as the trials of the config's `release` say.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from rnr_dist.config.release import Coefficients, Release
from rnr_dist.methods.merge import Ground, Merged, trained_tokens
from rnr_dist.methods.method import Method
from rnr_dist.release.loop import plan
from rnr_dist.release.stage import Adapters, release_from
from rnr_dist.run.directory import write
from rnr_dist.types import Adapter, ModelRef, Side


@dataclass(frozen=True)
class Budgeted(Adapters):
    """Each adapter is trained on so many tokens, whatever the config's epochs."""

    tokens: int = 0

    def train(self, name: str, side: Side, model: ModelRef) -> Adapter:
        rules = self.bench.config.release
        settings = rules.forget if side == "forget" else rules.retain
        training = settings.model_copy(update={"tokens": self.tokens})
        return self.trainings.adapter(name, self.items[side], training, side, model)


def run_released(method: Method, ground: Ground) -> Merged:
    """Every step of Eq. 1 from `ground.base`; the result is also `ground.folder`/NAME.json."""
    bench, folder = ground.reader.bench, ground.folder / method.name
    known = Adapters.of(bench, ground.materials.only(method.needs), folder)
    rules = within(bench.config.release, ground.budget.candidates)
    each = max(1, ground.budget.tokens // len(plan(rules)))
    adapters = Budgeted(bench, known.trainings, known.items, each)
    released = release_from(ground.base, adapters, replace(ground.reader, within=rules), folder)
    trials = [trial for step in released.steps for trial in step.trials if not trial["draw"]]
    points = released.front[1:]  # the first is the model that Eq. 1 ended with
    trained = {term.adapter.digest: term.adapter for term in released.result.terms}
    result = Merged(
        method.name,
        released.result,
        ", ".join(f"{step.name} x {step.coefficient:g}" for step in released.steps),
        released.models[-1].name not in released.fallbacks,
        released.steps[-1].broken,
        sum(map(trained_tokens, trained.values())),
        len(trials) + len(points),
        sum(math.isnan(trial["forget"]) for trial in trials)
        + sum(point.forget is None for point in points),
        (),
    )
    write(ground.folder / f"{method.name}.json", result)
    return result


def within(rules: Release, candidates: int) -> Release:
    """The rules with so many candidates, shared out as their `trials` are.

    Each weight of Eq. 1 has one at least; a joint search has what the weights leave.
    """
    asked = sum(step.coefficients.trials for step in plan(rules)) + rules.joint.trials

    def shared(weight: Coefficients) -> Coefficients:
        return weight.model_copy(update={"trials": max(1, weight.trials * candidates // asked)})

    weights = {"mu0": shared(rules.mu0), "lam": shared(rules.lam), "mu": shared(rules.mu)}
    found = rules.model_copy(update=weights)
    left = candidates - sum(step.coefficients.trials for step in plan(found))
    trials = max(0, left) if rules.joint.trials else 0
    return found.model_copy(update={"joint": rules.joint.model_copy(update={"trials": trials})})
