"""The 90 %/95 % rules."""

import math
from dataclasses import replace

import numpy as np
import pytest

from rnr_dist.config.release import Release
from rnr_dist.measures.measure import Measure, Measures, Role
from rnr_dist.release.rules import (
    MergeStep,
    Reading,
    Verdict,
    judge,
    ranked,
    utility,
    utility_shortfall,
)
from rnr_dist.stats import ClusterMean
from tests.unit.fakes import INSIDE, MEASURES, SHARES
from tests.unit.readings import (
    BASE,
    CONTEXTS,
    RULES,
    TOKENS,
    WINDOWS,
    addition,
    counted,
    guards,
    reading,
    ruled,
    shared,
    subtraction,
)

# Utility


def test_utility_is_that_of_the_worst_domain():
    assert utility(BASE, BASE, MEASURES) == 1.0
    assert utility(reading(0.5, 1.2, outside=0.8), BASE, MEASURES) == pytest.approx(0.8)
    assert utility(reading(0.5, 0.7, outside=0.9), BASE, MEASURES) == pytest.approx(0.7)


def test_a_utility_of_which_more_is_better_counts_the_other_way():
    answers = Measure("answers", "answers", "share", "higher", Role.UTILITY)
    both = Measures((SHARES.fraction, INSIDE, answers))
    base = replace(BASE, utility={**BASE.utility, answers.name: answers.mean([0.8] * 20)})
    worse = replace(base, utility={**base.utility, answers.name: answers.mean([0.6] * 20)})
    assert utility(base, base, both) == 1.0
    assert utility(worse, base, both) == pytest.approx(0.75)
    step = MergeStep(both, "add", base, base, base)
    assert utility_shortfall(worse, step, RULES) == pytest.approx(0.2)
    assert utility_shortfall(base, step, RULES) < 0


@pytest.mark.filterwarnings("error")
def test_a_draw_of_texts_that_hold_nothing_cannot_hide_a_loss():
    """F1 of names that stand in two of four texts: one draw in sixteen has none of these two."""
    names = Measure("names", "names", "share", "higher", Role.UTILITY)
    both = Measures((SHARES.fraction, names))
    held = np.array([2.0, 2.0, 0.0, 0.0])

    def found(share):
        return replace(BASE, utility={names.name: names.of(share * held, held)})

    for kind in ("add", "subtract"):
        step = MergeStep(both, kind, found(1), found(1), found(1), last=True)
        assert utility_shortfall(found(0), step, RULES) == pytest.approx(0.95)
        assert "utility" in judge(found(0), step, RULES).broken
        assert utility_shortfall(found(1), step, RULES) == pytest.approx(-0.05)
        # Of a utility that the base has not, nothing can be said to be kept.
        unable = MergeStep(both, kind, found(0), found(0), found(0), last=True)
        assert utility_shortfall(found(0), unable, RULES) == 1
        assert not judge(found(0), unable, RULES).feasible


# Subtractions


def test_rule_1_holds_at_a_tenth_of_the_score_before():
    verdict = judge(reading(0.04, u=0.3), subtraction(), RULES)
    assert (verdict.rule, verdict.broken, verdict.violation) == ("1", (), 0.0)
    assert (verdict.forget, verdict.utility) == pytest.approx((0.04, 0.3))
    # A tenth of the score before this step, not of the base's.
    before = reading(0.2)
    assert judge(reading(0.04, u=0.9), subtraction(before=before), RULES).rule != "1"
    assert judge(reading(0.01, u=0.9), subtraction(before=before), RULES).rule == "1"


def test_rule_2_holds_when_more_is_forgotten_than_lost():
    # Half of the behaviour for less than half of the utility, both against the base.
    assert judge(reading(0.25, u=0.6), subtraction(), RULES).rule == "2"
    lost = judge(reading(0.25, u=0.4), subtraction(), RULES)
    assert (lost.rule, lost.feasible, lost.broken) == ("", False, ("forgetting",))
    assert lost.violation == pytest.approx(0.1)
    # Only what this step does counts, as a fraction of the base: here a fifth is forgotten.
    later = subtraction(before=reading(0.25, u=0.5))
    assert judge(reading(0.15, u=0.4), later, RULES).rule == "2"
    assert judge(reading(0.15, u=0.25), later, RULES).rule == ""


def test_nothing_forgotten_and_nothing_lost_is_not_feasible():
    assert not judge(reading(0.5), subtraction(), RULES).feasible


def test_the_nearer_rule_measures_the_violation():
    near = judge(reading(0.06, u=0.05), subtraction(), RULES)
    assert near.violation == pytest.approx((0.06 - 0.05) / 0.5)


def test_rule_1_is_named_where_both_hold():
    assert judge(reading(0.01, u=0.95), subtraction(), RULES).rule == "1"


def test_the_shares_are_configurable():
    assert judge(reading(0.19, u=0.1), subtraction(), ruled(forget_share=0.6)).rule == "1"
    assert judge(reading(0.21, u=0.1), subtraction(), ruled(forget_share=0.6)).rule == ""


def test_a_rule_holds_with_its_probability_and_not_by_its_point_estimate():
    draw = np.random.default_rng(0)
    counts = np.where(draw.random(CONTEXTS) < 0.1, 4, 0)  # a few contexts hold all of it
    noisy = counted(counts)
    assert noisy.numerator.sum() >= 5
    before = reading(
        shared(noisy.value * 10 / 0.9)
    )  # the estimate is a tenth below what rule 1 asks
    candidate = reading(noisy, u=0.05)
    assert (
        judge(candidate, MergeStep(MEASURES, "subtract", before, before, before), RULES).rule != "1"
    )
    bold = ruled(confidence=0.55)
    assert (
        judge(candidate, MergeStep(MEASURES, "subtract", before, before, before), bold).rule == "1"
    )


def test_no_such_continuation_of_few_is_no_proof():
    # One-sided 90 % bounds of 0 in 30 and 0 in 60: .074 and .038, around a tenth of .5.
    for contexts, rule in ((3, "2"), (6, "1")):
        before = reading(shared(0.5, contexts))
        none = reading(shared(0.0, contexts), u=0.5)
        assert (
            judge(none, MergeStep(MEASURES, "subtract", before, before, before), RULES).rule == rule
        )


def test_only_the_last_subtraction_must_keep_the_utility():
    assert judge(reading(0.01, u=0.9), subtraction(), RULES).feasible
    verdict = judge(reading(0.01, u=0.9), subtraction(last=True), RULES)
    assert (verdict.rule, verdict.broken) == ("", ("utility",))
    assert verdict.violation == pytest.approx(0.05)
    assert judge(reading(0.01, u=0.96), subtraction(last=True), RULES).rule == "1"
    assert judge(
        reading(0.01, u=0.7), subtraction(last=True), Release(final_keep_share=0.6)
    ).feasible


def test_a_subtraction_may_take_what_its_addition_can_restore():
    rules = Release(restorable=0.2)  # .95 - .2 of the base
    assert judge(reading(0.01, u=0.76), subtraction(), rules).rule == "1"
    verdict = judge(reading(0.01, u=0.74), subtraction(), rules)
    assert (verdict.rule, verdict.broken) == ("", ("utility",))
    # The addition comes back to a share of what stands before the subtraction, so it begins there.
    later = subtraction(before=reading(0.4, u=0.8))
    assert judge(reading(0.01, u=0.57), later, rules).rule == "1"
    assert judge(reading(0.01, u=0.55), later, rules).broken == ("utility",)


# Additions


def test_an_addition_comes_back_to_95_percent_of_the_utility_before_the_cycle():
    assert judge(reading(0.1, u=0.96), addition(), RULES).rule == "lambda"
    assert judge(reading(0.1, u=0.94), addition(), RULES).broken == ("utility",)
    start = reading(0.3, u=0.8)  # a later cycle: 95 % of .8
    assert judge(reading(0.1, u=0.77), addition(start), RULES).rule == "lambda"
    assert judge(reading(0.1, u=0.75), addition(start), RULES).broken == ("utility",)


def test_utility_must_hold_with_its_probability_too():
    draw = np.random.default_rng(0)
    nll = BASE.utility[INSIDE.name].numerator
    harmed = nll + TOKENS * draw.normal(0, 0.2, WINDOWS)  # some windows lose, others gain
    harmed += TOKENS * 0.04 - (harmed - nll).mean()  # 4 % in all
    domains = {INSIDE.name: ClusterMean(harmed, np.full(WINDOWS, TOKENS), exponential=True)}
    noisy = Reading("m", BASE.utility | domains, shared(0.1), guards())
    assert utility(noisy, BASE, MEASURES) > 0.95
    assert judge(noisy, addition(), RULES).broken == ("utility",)
    assert judge(noisy, addition(), Release(confidence=0.51)).feasible


def test_every_domain_must_come_back():
    assert judge(reading(0.1, u=1.3, outside=0.9), addition(), RULES).broken == ("utility",)


# Guards


@pytest.mark.parametrize("name", ["mean_length", "distinct_2", "distinct_3", "entropy"])
def test_outputs_may_not_shrink(name):
    good, bad = {name: 4 * 0.86}, {name: 4 * 0.84}
    assert judge(reading(0.1, **good), addition(), RULES).feasible
    verdict = judge(reading(0.1, **bad), addition(), RULES)
    assert verdict.broken == (f"output/{name}",)
    assert verdict.violation == pytest.approx(0.01)


def test_outputs_may_not_be_empty():
    assert judge(reading(0.1, empty_share=0.19), addition(), RULES).feasible
    assert judge(reading(0.1, empty_share=0.21), addition(), RULES).broken == (
        "output/empty_share",
    )


def test_guards_bind_additions_and_the_last_subtraction_only():
    short = reading(0.01, u=0.97, mean_length=1.0)
    assert judge(short, subtraction(), RULES).feasible
    assert judge(short, subtraction(last=True), RULES).broken == ("output/mean_length",)


# Trials that have lost


def test_a_trial_can_lose_by_its_utility_alone():
    hopeless = Reading("m", reading(0.1, u=0.5).utility)
    assert utility_shortfall(hopeless, addition(), RULES) == pytest.approx(0.45)
    verdict = judge(hopeless, addition(), RULES)
    assert math.isnan(verdict.forget)
    assert (verdict.rule, verdict.broken) == ("", ("utility",))
    assert verdict.violation == pytest.approx(1.45)  # behind every trial that was generated from
    assert utility_shortfall(hopeless, subtraction(), Release(restorable=0.2)) == pytest.approx(
        0.25
    )
    assert utility_shortfall(hopeless, subtraction(last=True), RULES) == pytest.approx(0.45)


# The winner


def verdict(rule, forget=0.1, utility=0.9, violation=0.0):
    return Verdict(forget, utility, rule, violation, () if rule else ("forgetting",))


def test_subtractions_rule_1_by_utility_then_rule_2_by_forgetting_then_least_violation():
    verdicts = [
        verdict("", violation=0.3),
        verdict("2", forget=0.2, utility=0.99),
        verdict("1", forget=0.01, utility=0.6),
        verdict("2", forget=0.1, utility=0.7),
        verdict("", violation=0.1),
        verdict("1", forget=0.04, utility=0.8),
    ]
    assert ranked(verdicts, "subtract", RULES) == [5, 2, 3, 1, 4, 0]


def test_additions_by_utility_or_by_forgetting():
    verdicts = [
        verdict("lambda", forget=0.2, utility=1.1),
        verdict("lambda", forget=0.05, utility=0.96),
        verdict("", violation=0.02, utility=2.0, forget=0.0),
        verdict("lambda", forget=0.1, utility=1.0),
    ]
    assert ranked(verdicts, "add", RULES) == [0, 3, 1, 2]
    assert ranked(verdicts, "add", Release(lambda_winner="forget")) == [1, 3, 0, 2]
