"""The 90 %/95 % rules, and the search that keeps to them."""

import math

import numpy as np
import pytest

from rnr_dist.config import Coefficients, Config, Perplexity, Release
from rnr_dist.generate.requests import Continuation, Generate, ReadLikelihood, Response
from rnr_dist.release.merge_search import Probe, candidates, read_model, search_weight
from rnr_dist.release.rules import (
    GUARDED,
    Reading,
    Step,
    Verdict,
    judge,
    ranked,
    utility,
    utility_shortfall,
)
from rnr_dist.run_dir import write_json
from rnr_dist.stats import ClusterMean
from rnr_dist.types import Adapter, Context, ModelRef, SamplingSettings, Split

CONTEXTS, EACH, WINDOWS, TOKENS = 60, 10, 20, 100.0
RULES = Release()


def texts(perplexity, windows=WINDOWS):
    nll = np.full(windows, math.log(perplexity) * TOKENS)
    return ClusterMean(nll, np.full(windows, TOKENS), exponential=True)


def toxic(share, contexts=CONTEXTS):
    """Every context has the same share, so that the bootstrap sees no noise."""
    each = np.full(contexts, float(EACH))
    return ClusterMean(share * each, each, proportion=True)


def counted(counts):
    counts = np.array(counts, float)
    return ClusterMean(counts, np.full(len(counts), float(EACH)), proportion=True)


def guards(**changed):
    values = dict.fromkeys(GUARDED, 4.0) | {"output/empty_share": 0.05}
    values |= {f"output/{name}": value for name, value in changed.items()}
    return {name: ClusterMean(np.full(8, value), np.ones(8)) for name, value in values.items()}


def reading(forget, u=1.0, outside=None, name="m", **changed):
    """A reading of utility `u` (`outside` in the other domain) against `BASE`."""
    measured = toxic(forget) if isinstance(forget, float) else forget
    domains = {"in_domain": texts(20 / u), "out_of_domain": texts(30 / (outside or u))}
    return Reading(name, domains, measured, guards(**changed))


BASE = reading(0.5, name="base")


def subtraction(last=False, before=BASE):
    return Step("subtract", BASE, before, before, last)


def addition(cycle_start=BASE, before=BASE):
    return Step("add", BASE, before, cycle_start)


# Utility


def test_utility_is_that_of_the_worst_domain():
    assert utility(BASE, BASE) == 1.0
    assert utility(reading(0.5, 1.2, outside=0.8), BASE) == pytest.approx(0.8)
    assert utility(reading(0.5, 0.7, outside=0.9), BASE) == pytest.approx(0.7)


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
    assert judge(reading(0.19, u=0.1), subtraction(), Release(forget_share=0.6)).rule == "1"
    assert judge(reading(0.21, u=0.1), subtraction(), Release(forget_share=0.6)).rule == ""


def test_a_rule_holds_with_its_probability_and_not_by_its_point_estimate():
    draw = np.random.default_rng(0)
    counts = np.where(draw.random(CONTEXTS) < 0.1, 4, 0)  # a few contexts hold all of it
    noisy = counted(counts)
    assert noisy.numerator.sum() >= 5
    before = reading(
        toxic(noisy.value * 10 / 0.9)
    )  # the estimate is a tenth below what rule 1 asks
    candidate = reading(noisy, u=0.05)
    assert judge(candidate, Step("subtract", before, before, before), RULES).rule != "1"
    bold = Release(confidence=0.55)
    assert judge(candidate, Step("subtract", before, before, before), bold).rule == "1"


def test_no_toxic_continuation_of_few_is_no_proof():
    # One-sided 90 % bounds of 0 in 30 and 0 in 60: .074 and .038, around a tenth of .5.
    for contexts, rule in ((3, "2"), (6, "1")):
        before = reading(toxic(0.5, contexts))
        none = reading(toxic(0.0, contexts), u=0.5)
        assert judge(none, Step("subtract", before, before, before), RULES).rule == rule


def test_only_the_last_subtraction_must_keep_the_utility():
    assert judge(reading(0.01, u=0.9), subtraction(), RULES).feasible
    verdict = judge(reading(0.01, u=0.9), subtraction(last=True), RULES)
    assert (verdict.rule, verdict.broken) == ("", ("utility",))
    assert verdict.violation == pytest.approx(0.05)
    assert judge(reading(0.01, u=0.96), subtraction(last=True), RULES).rule == "1"
    assert judge(
        reading(0.01, u=0.7), subtraction(last=True), Release(final_keep_share=0.6)
    ).feasible


# Additions


def test_an_addition_comes_back_to_95_percent_of_the_utility_before_the_cycle():
    assert judge(reading(0.1, u=0.96), addition(), RULES).rule == "lambda"
    assert judge(reading(0.1, u=0.94), addition(), RULES).broken == ("utility",)
    start = reading(0.3, u=0.8)  # a later cycle: 95 % of .8
    assert judge(reading(0.1, u=0.77), addition(start), RULES).rule == "lambda"
    assert judge(reading(0.1, u=0.75), addition(start), RULES).broken == ("utility",)


def test_utility_must_hold_with_its_probability_too():
    draw = np.random.default_rng(0)
    nll = BASE.utility["in_domain"].numerator
    harmed = nll + TOKENS * draw.normal(0, 0.2, WINDOWS)  # some windows lose, others gain
    harmed += TOKENS * 0.04 - (harmed - nll).mean()  # 4 % in all
    domains = {"in_domain": ClusterMean(harmed, np.full(WINDOWS, TOKENS), exponential=True)}
    noisy = Reading("m", BASE.utility | domains, toxic(0.1), guards())
    assert utility(noisy, BASE) > 0.95
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
    assert utility_shortfall(hopeless, subtraction(), RULES) == -math.inf
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


# Candidates


def test_candidates_are_geometric_with_both_ends_and_each_once():
    assert candidates(Coefficients(low=0.5, high=8, trials=5)) == [0.5, 1, 2, 4, 8]
    assert candidates(Coefficients(low=0.3, high=5, trials=1)) == [0.3]
    assert candidates(Coefficients(low=2, high=2, trials=4)) == [2.0]
    many = candidates(Coefficients(low=1, high=1.01, trials=9))
    assert (many[0], many[-1], len(many)) == (1.0, 1.01, len(set(many)))


# Readings


class FakePool:
    """Answers likelihoods of PPL e^nll and continuations whose first token is their score."""

    def __init__(self, nll=3.0, toxic_share=0.5):
        self.nll, self.toxic_share, self.asked = nll, toxic_share, []

    def run(self, model, requests, describe=""):
        self.asked += [(model.digest, type(request)) for request in requests]
        return [self.answer(model, request) for request in requests]

    def answer(self, model, request):
        if isinstance(request, ReadLikelihood):
            count = len(request.token_ids) - request.start
            return Response(model.digest, log_likelihoods=(-self.nll,) * count)
        bad = round(self.toxic_share * request.sampling.n)
        choices = [
            Continuation((index, 7, 8), "bad" if index < bad else "good", "length")
            for index in range(request.sampling.n)
        ]
        return Response(model.digest, continuations=tuple(choices))


class FakeScorer:
    version = "fake"

    def score(self, contexts, responses):
        assert len(contexts) == len(responses)
        return np.array([float(text == "bad") for text in responses])


MODEL = ModelRef("/base", "base")
ADAPTER = Adapter("/a", "a", "base", "forget")
PROBE = Probe(
    tuple(Context(f"c{i}", f"text {i}", Split.SEARCH, "challenging") for i in range(6)),
    tuple(Generate(SamplingSettings(n=10), (i,)) for i in range(6)),
    {role: (ReadLikelihood((1, 2, 3, 4)),) * 5 for role in ("in_domain", "out_of_domain")},
    "toxicity",
    0.5,
)


def test_a_reading_measures_texts_and_continuations(tmp_path):
    found = read_model(MODEL, PROBE, FakePool(), FakeScorer(), tmp_path)
    assert found.model == MODEL.digest
    assert {name: m.value for name, m in found.utility.items()} == pytest.approx(
        {"in_domain": math.exp(3), "out_of_domain": math.exp(3)}
    )
    assert found.forget.value == 0.5
    assert set(found.guards) == {*GUARDED, "output/empty_share"}


def test_a_model_is_read_once_per_draw(tmp_path):
    pool = FakePool()
    first = read_model(MODEL, PROBE, pool, FakeScorer(), tmp_path)
    asked = len(pool.asked)
    assert asked == 16
    again = read_model(MODEL, PROBE, FakePool(toxic_share=0.0), FakeScorer(), tmp_path)
    assert again.to_json() == first.to_json()
    fresh = read_model(MODEL, PROBE, FakePool(toxic_share=0.0), FakeScorer(), tmp_path, draw=1)
    assert fresh.forget.value == 0.0
    read_model(MODEL.plus(1.0, ADAPTER), PROBE, pool, FakeScorer(), tmp_path)
    assert len(pool.asked) == 2 * asked


def test_a_trial_that_has_lost_does_not_generate(tmp_path):
    start = read_model(MODEL, PROBE, FakePool(), FakeScorer(), tmp_path)
    step = Step("add", start, start, start)
    worse, better = MODEL.plus(1.0, ADAPTER), MODEL.plus(2.0, ADAPTER)
    pool = FakePool(nll=3.5)
    lost = read_model(worse, PROBE, pool, FakeScorer(), tmp_path, 0, step, RULES)
    assert lost.forget is None
    assert {kind for _, kind in pool.asked} == {ReadLikelihood}
    kept = read_model(better, PROBE, FakePool(nll=2.9), FakeScorer(), tmp_path, 0, step, RULES)
    assert kept.forget.value == 0.5
    # Its file says so too.
    assert read_model(worse, PROBE, pool, FakeScorer(), tmp_path).forget is None


# The search, on readings that lie there already: no trial is started


def search(tmp_path, step, draws, rules, pool=None):
    """`draws`: for each draw the reading of each weight."""
    for draw, by_weight in enumerate(draws):
        for weight, found in by_weight.items():
            model = MODEL.plus(weight if step.kind == "add" else -weight, ADAPTER)
            write_json(tmp_path / f"{model.digest}-{draw}.json", found.to_json())
    source = {"source": "builtin:expository", "splits": {"final": 1}}
    task = {"challenging": source, "ordinary": source}
    task |= {"in_domain": [source], "out_of_domain": [source]}
    config = Config(name="x", task=task, release=rules, perplexity=Perplexity())
    coefficients = Coefficients(low=1, high=4, trials=3)
    return search_weight(
        "-f0", step, MODEL, ADAPTER, coefficients, config, PROBE, pool, FakeScorer(), tmp_path
    )


def test_the_winner_is_decided_on_fresh_samples(tmp_path):
    lucky = {1.0: reading(0.04, 0.9), 2.0: reading(0.03, 0.8), 4.0: reading(0.01, 0.5)}
    fresh = {1.0: reading(0.2, 0.6), 2.0: reading(0.04, 0.8)}
    choice = search(tmp_path, subtraction(), [lucky, fresh, fresh], Release(reread=2))
    assert (choice.coefficient, choice.verdict.rule) == (2.0, "1")
    assert choice.reading.forget.value == pytest.approx(0.04)
    drawn = [(trial.coefficient, trial.draw) for trial in choice.trials]
    assert sorted(drawn) == [(1.0, 0), (1.0, 1), (2.0, 0), (2.0, 1), (4.0, 0)]
    assert search(tmp_path, subtraction(), [lucky], Release(reread=0)).coefficient == 1.0


def test_fresh_samples_decide_together(tmp_path):
    """One lucky fresh draw does not win against two fair ones."""
    first = {1.0: reading(0.04, 0.9), 2.0: reading(0.04, 0.8), 4.0: reading(0.4, 0.5)}
    fresh = {1.0: reading(0.01, 0.9), 2.0: reading(0.04, 0.8)}
    again = {1.0: reading(0.3, 0.9), 2.0: reading(0.02, 0.8)}
    choice = search(tmp_path, subtraction(), [first, fresh, again], Release(reread=2))
    assert choice.coefficient == 2.0
    assert choice.reading.forget.value == pytest.approx(0.03)
    assert choice.reading.forget.denominator.sum() == 2 * reading(0.1).forget.denominator.sum()


def test_where_nothing_is_feasible_the_least_violation_wins_and_says_so(tmp_path):
    poor = {1.0: reading(0.45, 0.7), 2.0: reading(0.3, 0.52), 4.0: reading(0.1, 0.05)}
    choice = search(tmp_path, subtraction(), [poor, poor, poor], Release(reread=3))
    assert (choice.verdict.feasible, choice.verdict.broken) == (False, ("forgetting",))
    # Rule 1 is missed by .8, .5 and .1 of the base's score, rule 2 by .2, .08 and .15.
    assert choice.coefficient == 2.0
    assert choice.verdict.violation == pytest.approx(0.08)


def test_a_fallback_that_was_never_generated_from_is_read_whole(tmp_path):
    lost = {
        w: Reading("m", reading(0.1, u).utility) for w, u in ((1.0, 0.9), (2.0, 0.8), (4.0, 0.7))
    }
    pool = FakePool()
    choice = search(tmp_path, addition(), [lost], Release(reread=0), pool)
    assert (choice.coefficient, choice.verdict.feasible) == (1.0, False)
    assert choice.reading.forget.value == 0.5
    assert {digest for digest, _ in pool.asked} == {MODEL.plus(1.0, ADAPTER).digest}


def test_a_reading_survives_its_file():
    for original in (BASE, Reading("m", BASE.utility)):
        assert Reading.from_json(original.to_json()).to_json() == original.to_json()
