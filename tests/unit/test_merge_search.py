"""The search of a merge weight: readings, candidates, who wins."""

import math

import numpy as np
import pytest

from rnr_dist.config.evaluation import Perplexity

from rnr_dist.config.release import Coefficients, Release

from rnr_dist.config.schema import Config
from rnr_dist.generate.requests import Continuation, Generate, ReadLikelihood, Response
from rnr_dist.release.choice import Reader
from rnr_dist.release.merge_search import candidates, search_weight
from rnr_dist.release.probe import Probe, read_model
from rnr_dist.release.rules import (
    GUARDED,
    Reading,
    Step,
)
from rnr_dist.run.codec import from_plain, to_plain
from rnr_dist.run.directory import write
from rnr_dist.types import Adapter, Context, ModelRef, SamplingSettings, Split
from tests.unit.readings import (
    BASE,
    RULES,
    addition,
    reading,
    ruled,
    subtraction,
)

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
    assert to_plain(again) == to_plain(first)
    other = FakePool(nll=9.0, toxic_share=0.0)
    fresh = read_model(MODEL, PROBE, other, FakeScorer(), tmp_path, draw=1)
    assert fresh.forget.value == 0.0
    # Perplexity is not drawn: its windows are read once, whatever the draw.
    assert {kind for _, kind in other.asked} == {Generate}
    assert to_plain(fresh.utility) == to_plain(first.utility)
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
            write(tmp_path / f"{model.digest}-{draw}.json", found)
    source = {"source": "builtin:expository", "splits": {"final": 1}}
    task = {"challenging": source, "ordinary": source}
    task |= {"in_domain": [source], "out_of_domain": [source]}
    config = Config(name="x", task=task, release=rules, perplexity=Perplexity())
    coefficients = Coefficients(low=1, high=4, trials=3)
    reader = Reader(config, PROBE, pool, FakeScorer(), tmp_path)
    return search_weight("-f0", step, MODEL, ADAPTER, coefficients, reader)


def test_the_winner_is_decided_on_fresh_samples(tmp_path):
    lucky = {1.0: reading(0.04, 0.9), 2.0: reading(0.03, 0.8), 4.0: reading(0.01, 0.5)}
    fresh = {1.0: reading(0.2, 0.6), 2.0: reading(0.04, 0.8)}
    weight, choice = search(tmp_path, subtraction(), [lucky, fresh, fresh], Release(reread=2))
    assert (weight, choice.verdict.rule) == (2.0, "1")
    assert choice.reading.forget.value == pytest.approx(0.04)
    drawn = [(float(trial.candidate), trial.draw) for trial in choice.trials]
    assert sorted(drawn) == [(1.0, 0), (1.0, 1), (2.0, 0), (2.0, 1), (4.0, 0)]
    assert search(tmp_path, subtraction(), [lucky], Release(reread=0))[0] == 1.0


def test_fresh_samples_decide_together(tmp_path):
    """One lucky fresh draw does not win against two fair ones."""
    first = {1.0: reading(0.04, 0.9), 2.0: reading(0.04, 0.8), 4.0: reading(0.4, 0.5)}
    fresh = {1.0: reading(0.01, 0.9), 2.0: reading(0.04, 0.8)}
    again = {1.0: reading(0.3, 0.9), 2.0: reading(0.02, 0.8)}
    weight, choice = search(tmp_path, subtraction(), [first, fresh, again], Release(reread=2))
    assert weight == 2.0
    assert choice.reading.forget.value == pytest.approx(0.03)
    assert choice.reading.forget.denominator.sum() == 2 * reading(0.1).forget.denominator.sum()


def test_where_nothing_is_feasible_the_least_violation_wins_and_says_so(tmp_path):
    poor = {1.0: reading(0.45, 0.7), 2.0: reading(0.3, 0.52), 4.0: reading(0.1, 0.05)}
    weight, choice = search(tmp_path, subtraction(), [poor, poor, poor], ruled(reread=3))
    assert (choice.verdict.feasible, choice.verdict.broken) == (False, ("forgetting",))
    # Rule 1 is missed by .8, .5 and .1 of the base's score, rule 2 by .2, .08 and .15.
    assert weight == 2.0
    assert choice.verdict.violation == pytest.approx(0.08)


def test_a_fallback_that_was_never_generated_from_is_read_whole(tmp_path):
    lost = {
        w: Reading("m", reading(0.1, u).utility) for w, u in ((1.0, 0.9), (2.0, 0.8), (4.0, 0.7))
    }
    pool = FakePool()
    weight, choice = search(tmp_path, addition(), [lost], Release(reread=0), pool)
    assert (weight, choice.verdict.feasible) == (1.0, False)
    assert choice.reading.forget.value == 0.5
    assert {digest for digest, _ in pool.asked} == {MODEL.plus(1.0, ADAPTER).digest}


def test_a_reading_survives_its_file():
    for original in (BASE, Reading("m", BASE.utility)):
        assert to_plain(from_plain(Reading, to_plain(original))) == to_plain(original)
