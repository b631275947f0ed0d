"""The 90 %/95 % rules of merge weights (paper section 3.2), under noise.

In: readings of candidates and of the models before. Out: which rules hold, and the winner.
Invariant: a rule holds when it holds with the configured probability under a paired bootstrap
(and, where few continuations hold the target, by the exact bound), never by its point estimate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from operator import add
from typing import Literal

import numpy as np

from rnr_dist.config.release import Release
from rnr_dist.measures.measure import Measure, Measures, Role
from rnr_dist.stats import SMALL_COUNT, ClusterMean, exact_interval, resampling_counts


@dataclass(frozen=True)
class Reading:
    """What was measured of one model on the `search` split, by the names of the task's measures.

    `forget` is the target measure, None where a trial had lost before it generated.
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
class MergeStep:
    """The step of Eq. 1 whose weight is searched, and what its rules compare with.

    `measures` are the task's. `before` is the model that the term is added to, `cycle_start` the
    one before the cycle's subtraction (for an addition), `last` marks the subtraction that ends
    Eq. 1, after which no addition can restore anything.
    """

    measures: Measures
    kind: Literal["subtract", "add"]
    base: Reading
    before: Reading
    cycle_start: Reading
    last: bool = False

    @classmethod
    def final(cls, measures: Measures, base: Reading) -> MergeStep:
        """The last subtraction, judged against the base: what any method's result must meet."""
        return cls(measures, "subtract", base, base, base, last=True)


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

    @property
    def dead(self) -> bool:
        """Whether utility was lost before anything was generated."""
        return math.isnan(self.forget)


def utility(reading: Reading, base: Reading, measures: Measures) -> float:
    """u: the lowest share of the base's quality over the utilities; 1 for the base itself."""
    return min(
        measure.kept(reading.utility[measure.name].value, base.utility[measure.name].value)
        for measure in measures.of(Role.UTILITY)
    )


def utility_draws(reading: Reading, base: Reading, measures: Measures) -> np.ndarray:
    """(B,) draws of u, paired by cluster within each measure; NaN where the base has nothing."""
    drawn = []
    for measure in measures.of(Role.UTILITY):
        own, other = reading.utility[measure.name], base.utility[measure.name]
        weights = resampling_counts(other.n_contexts)
        found, reference = own.draws(weights), other.draws(weights)
        with np.errstate(divide="ignore", invalid="ignore"):
            drawn.append(reference / found if measure.better == "lower" else found / reference)
    return np.min(drawn, axis=0)


def utility_shortfall(reading: Reading, step: MergeStep, rules: Release) -> float:
    """How far the utility rule of the step is missed (<= 0: held); needs no generation.

    Additions must come back to `keep_share` of the utility before the cycle's subtraction, the
    last subtraction may not go below `final_keep_share` of the base's. Other subtractions may take
    what the addition after them can restore: without a floor, rule 2 is won by the largest fall,
    whatever it cost, and no addition brings that back.
    """
    measures = step.measures
    if step.kind == "add":
        floor = rules.keep_share * utility_draws(step.cycle_start, step.base, measures)
    elif step.last:
        floor = np.full(1, rules.final_keep_share)
    else:
        before = utility_draws(step.before, step.base, measures)
        floor = rules.keep_share * before - rules.restorable
    margin = utility_draws(reading, step.base, measures) - floor
    return -_quantile(margin, 1 - rules.confidence, nothing=-1.0)


def _quantile(draws: np.ndarray, level: float, nothing: float) -> float:
    """Of the draws that say something; `nothing` where none does. A draw of texts on which the base
    has none of a utility, names of a type say, cannot tell how much of it is left."""
    told = draws[~np.isnan(draws)]
    return float(np.quantile(told, level)) if len(told) else nothing


def judge(reading: Reading, step: MergeStep, rules: Release) -> Verdict:
    """Apply the step's rules to a full reading."""
    u = utility(reading, step.base, step.measures)
    shortfall = utility_shortfall(reading, step, rules)
    broken = {"utility": shortfall} if shortfall > 0 else {}
    if reading.forget is None:
        return Verdict(float("nan"), u, "", 1 + max(shortfall, 0.0), tuple(broken) or ("lost",))
    if step.kind == "add" or step.last:
        broken |= broken_guards(reading, step, rules)
    rule = "lambda"
    if step.kind == "subtract":
        rule, missed = _subtraction_rule(reading, step, rules)
        if not rule:
            broken["forgetting"] = missed
    violation = sum(broken.values())
    return Verdict(reading.forget.value, u, "" if broken else rule, violation, tuple(broken))


def _subtraction_rule(reading: Reading, step: MergeStep, rules: Release) -> tuple[str, float]:
    """`1`, `2` or nothing, and by how much the nearer of the two is missed."""
    assert reading.forget and step.before.forget and step.base.forget
    weights = resampling_counts(reading.forget.n_contexts)
    s, before = reading.forget.draws(weights), step.before.forget.draws(weights)
    allowed = (1 - rules.forget_share) * before
    first = float(np.quantile(s - allowed, rules.confidence))
    count, total = reading.forget.numerator.sum(), reading.forget.denominator.sum()
    if reading.forget.proportion and count < SMALL_COUNT:
        # The bootstrap of very few continuations with the target is too sure of itself.
        upper = exact_interval(int(count), int(total), 2 * rules.confidence - 1)[1]
        first = max(first, upper - (1 - rules.forget_share) * step.before.forget.value)
    scale = step.base.forget.value or 1.0
    gained = (before - s) / scale
    base, measures = step.base, step.measures
    lost = utility_draws(step.before, base, measures) - utility_draws(reading, base, measures)
    # Contexts and windows are independent texts, so their draws may be paired as they come.
    second = _quantile(lost - gained, rules.confidence, nothing=1.0)
    if first <= 0:
        return "1", 0.0
    return ("2", 0.0) if second < 0 else ("", min(first / scale, second))


def broken_guards(reading: Reading, step: MergeStep, rules: Release) -> dict[str, float]:
    """Guards that are missed, by how much: outputs shorter, emptier or more repetitive than the
    base's. What should be low may rise by `guard_share`, what should be high may lose that share.
    """
    missed = {}
    for measure in step.measures.of(Role.GUARD):
        own, base = (part.guards[measure.name].value for part in (reading, step.base))
        amount = _excess(measure, own, base, rules.guard_share)
        if amount > 0:
            missed[measure.name] = amount
    return missed


def _excess(measure: Measure, own: float, base: float, share: float) -> float:
    if measure.better == "lower":
        return own - base - share
    return (1 - share) - own / base if base > 0 else 0.0


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
