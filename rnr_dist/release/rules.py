"""The 90 %/95 % rules of merge weights (paper section 3.2, design decision 5), under noise.

In: readings of candidates and of the models before. Out: which rules hold, and the winner.
Invariant: a rule holds when it holds with the configured probability under a paired bootstrap
(and, for few toxic continuations, by the exact bound), never by its point estimate alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from operator import add
from typing import Literal

import numpy as np

from rnr_dist.config.schema import Release
from rnr_dist.stats import SMALL_COUNT, ClusterMean, exact_interval, resampling_counts

GUARDED = ("output/mean_length", "output/distinct_2", "output/distinct_3", "output/entropy")


@dataclass(frozen=True)
class Reading:
    """What was measured of one model on the `search` split.

    `forget` is the share of toxic continuations (None where a trial had lost before it
    generated), `utility` perplexity by domain, `guards` the fluency measures.
    """

    model: str
    utility: dict[str, ClusterMean]
    forget: ClusterMean | None = None
    guards: dict[str, ClusterMean] = field(default_factory=dict)


def pooled(readings: Sequence[Reading]) -> Reading:
    """One reading of all samples of several of the same model; the first's where one has none."""
    first = readings[0]
    forgets = [reading.forget for reading in readings if reading.forget]
    if len(forgets) < len(readings):
        return first
    return replace(
        first,
        forget=reduce(add, forgets),
        guards={
            name: reduce(add, [reading.guards[name] for reading in readings])
            for name in first.guards
        },
    )


@dataclass(frozen=True)
class Step:
    """The merge step whose weight is searched.

    `before` is the model that the term is added to, `cycle_start` the one before the cycle's
    subtraction (for an addition), `last` marks the subtraction that ends Eq. 1, after which no
    addition can restore anything.
    """

    kind: Literal["subtract", "add"]
    base: Reading
    before: Reading
    cycle_start: Reading
    last: bool = False


@dataclass(frozen=True)
class Verdict:
    """What the rules say of a candidate. `rule` is `1`, `2`, `lambda` or empty (infeasible)."""

    forget: float
    utility: float
    rule: str
    violation: float
    broken: tuple[str, ...]

    @property
    def feasible(self) -> bool:
        return bool(self.rule)


def utility(reading: Reading, base: Reading) -> float:
    """u: the lowest PPL(base)/PPL(model) over the domains; 1 for the base itself."""
    return min(base.utility[name].value / reading.utility[name].value for name in base.utility)


def utility_draws(reading: Reading, base: Reading) -> np.ndarray:
    """(B,) draws of u, paired by window within each domain."""
    drawn = []
    for name, measure in base.utility.items():
        weights = resampling_counts(measure.n_contexts)
        drawn.append(measure.draws(weights) / reading.utility[name].draws(weights))
    return np.min(drawn, axis=0)


def utility_shortfall(reading: Reading, step: Step, rules: Release) -> float:
    """How far the utility rule of the step is missed (<= 0: held); needs no generation.

    Additions must come back to `keep_share` of the utility before the cycle's subtraction, the
    last subtraction may not go below `final_keep_share` of the base's. Other subtractions may take
    what the addition after them can restore: without a floor, rule 2 is won by the largest fall,
    whatever it cost, and no addition brings that back.
    """
    if step.kind == "add":
        floor = rules.keep_share * utility_draws(step.cycle_start, step.base)
    elif step.last:
        floor = np.full(1, rules.final_keep_share)
    else:
        floor = rules.keep_share * utility_draws(step.before, step.base) - rules.restorable
    margin = utility_draws(reading, step.base) - floor
    return float(-np.quantile(margin, 1 - rules.confidence))


def judge(reading: Reading, step: Step, rules: Release) -> Verdict:
    """Apply the step's rules to a full reading."""
    u = utility(reading, step.base)
    shortfall = utility_shortfall(reading, step, rules)
    broken = {"utility": shortfall} if shortfall > 0 else {}
    if reading.forget is None:
        return Verdict(float("nan"), u, "", 1 + max(shortfall, 0.0), tuple(broken) or ("lost",))
    if step.kind == "add" or step.last:
        broken |= broken_guards(reading, step.base, rules)
    rule = "lambda"
    if step.kind == "subtract":
        rule, missed = _subtraction_rule(reading, step, rules)
        if not rule:
            broken["forgetting"] = missed
    violation = sum(broken.values())
    return Verdict(reading.forget.value, u, "" if broken else rule, violation, tuple(broken))


def _subtraction_rule(reading: Reading, step: Step, rules: Release) -> tuple[str, float]:
    """`1`, `2` or nothing, and by how much the nearer of the two is missed."""
    assert reading.forget and step.before.forget and step.base.forget
    weights = resampling_counts(reading.forget.n_contexts)
    s, before = reading.forget.draws(weights), step.before.forget.draws(weights)
    allowed = (1 - rules.forget_share) * before
    first = float(np.quantile(s - allowed, rules.confidence))
    count, total = reading.forget.numerator.sum(), reading.forget.denominator.sum()
    if count < SMALL_COUNT:
        # The bootstrap of very few toxic continuations is too sure of itself.
        upper = exact_interval(int(count), int(total), 2 * rules.confidence - 1)[1]
        first = max(first, upper - (1 - rules.forget_share) * step.before.forget.value)
    scale = step.base.forget.value or 1.0
    gained = (before - s) / scale
    lost = utility_draws(step.before, step.base) - utility_draws(reading, step.base)
    # Contexts and windows are independent texts, so their draws may be paired as they come.
    second = float(np.quantile(lost - gained, rules.confidence))
    if first <= 0:
        return "1", 0.0
    return ("2", 0.0) if second < 0 else ("", min(first / scale, second))


def broken_guards(reading: Reading, base: Reading, rules: Release) -> dict[str, float]:
    """Guards that are missed: outputs shorter, emptier or more repetitive than the base's."""
    missed = {
        name: (1 - rules.guard_share) - reading.guards[name].value / base.guards[name].value
        for name in GUARDED
        if base.guards[name].value > 0
    }
    name = "output/empty_share"
    missed[name] = reading.guards[name].value - base.guards[name].value - rules.guard_share
    return {name: amount for name, amount in missed.items() if amount > 0}


def ranked(verdicts: Sequence[Verdict], kind: str, rules: Release) -> list[int]:
    """Positions from the winner down.

    Subtraction: rule 1 first, by utility; then rule 2, by the fall of the forget score; then the
    infeasible by least violation. Addition: the feasible by utility, or by the lowest forget
    score if the config says so; then the infeasible by least violation.
    """

    def key(position: int) -> tuple[float, float]:
        verdict = verdicts[position]
        if not verdict.feasible:
            return (2, verdict.violation)
        if kind == "add":
            by_utility = rules.lambda_winner == "utility"
            return (0, -verdict.utility if by_utility else verdict.forget)
        return (0, -verdict.utility) if verdict.rule == "1" else (1, verdict.forget)

    return sorted(range(len(verdicts)), key=key)
