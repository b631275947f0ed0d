"""The search of a merge weight: readings, candidates, who wins."""

import math
from types import SimpleNamespace

import pytest

from rnr_dist.config.engines import Engines
from rnr_dist.config.release import Coefficients, Release
from rnr_dist.generate.requests import Generate, ReadLikelihood
from rnr_dist.measures.fluency import FLUENCY
from rnr_dist.release.choice import candidates, choose_weight
from rnr_dist.release.reader import Reader
from rnr_dist.release.rules import MergeStep, Reading
from rnr_dist.run.codec import from_plain, to_plain
from rnr_dist.run.directory import write
from rnr_dist.types import Split
from tests.unit.fakes import (
    FORGET,
    INSIDE,
    MEASURES,
    MODEL,
    OUTSIDE,
    FakeBench,
    FakeScorer,
    FakeTask,
    SharedOut,
    bad_words,
    contexts,
)
from tests.unit.readings import BASE, RULES, addition, reading, ruled, subtraction

# Candidates


def test_candidates_are_geometric_with_both_ends_and_each_once():
    assert candidates(Coefficients(low=0.5, high=8, trials=5)) == [0.5, 1, 2, 4, 8]
    assert candidates(Coefficients(low=0.3, high=5, trials=1)) == [0.3]
    assert candidates(Coefficients(low=2, high=2, trials=4)) == [2.0]
    many = candidates(Coefficients(low=1, high=1.01, trials=9))
    assert (many[0], many[-1], len(many)) == (1.0, 1.01, len(set(many)))


# Readings


def reader(folder, endpoint=None, rules=RULES):
    config = SimpleNamespace(release=rules, engines=Engines())
    bench = FakeBench(config, endpoint or SharedOut(), FakeScorer(bad_words))
    return Reader(bench, FakeTask(given=contexts(Split.SEARCH, 6)), folder)


def test_a_reading_measures_texts_and_continuations(tmp_path):
    found = reader(tmp_path).read(MODEL)
    assert found.model == MODEL.digest
    assert {name: m.value for name, m in found.utility.items()} == pytest.approx(
        {INSIDE.name: math.exp(3), OUTSIDE.name: math.exp(3)}
    )
    assert found.forget.value == 0.5
    assert (found.forget.numerator.sum(), found.forget.denominator.sum()) == (30, 60)
    assert set(found.guards) == {measure.name for measure in FLUENCY}


def test_a_model_is_read_once_per_draw(tmp_path):
    endpoint = SharedOut()
    first = reader(tmp_path, endpoint).read(MODEL)
    asked = len(endpoint.asked)
    assert asked == 16
    again = reader(tmp_path, SharedOut(share=0.0)).read(MODEL)
    assert to_plain(again) == to_plain(first)
    other = SharedOut(nats=9.0, share=0.0)
    fresh = reader(tmp_path, other).read(MODEL, 1)
    assert fresh.forget.value == 0.0
    # Perplexity is not drawn: its windows are read once, whatever the draw.
    assert {kind for _, kind in other.asked} == {Generate}
    assert to_plain(fresh.utility) == to_plain(first.utility)
    reader(tmp_path, endpoint).read(MODEL.plus(1.0, FORGET))
    assert len(endpoint.asked) == 2 * asked


def test_a_trial_that_has_lost_does_not_generate(tmp_path):
    start = reader(tmp_path).read(MODEL)
    step = MergeStep(MEASURES, "add", start, start, start)
    worse, better = MODEL.plus(1.0, FORGET), MODEL.plus(2.0, FORGET)
    endpoint = SharedOut(nats=3.5)
    lost = reader(tmp_path, endpoint).read(worse, 0, step)
    assert lost.forget is None
    assert {kind for _, kind in endpoint.asked} == {ReadLikelihood}
    kept = reader(tmp_path, SharedOut(nats=2.9)).read(better, 0, step)
    assert kept.forget.value == 0.5
    # Its file says so too.
    assert reader(tmp_path, endpoint).read(worse).forget is None


# The search, on readings that lie there already: no trial is started


def search(tmp_path, step, draws, rules, endpoint=None):
    """(weight, choice). `draws`: for each draw the reading of each weight."""
    for draw, by_weight in enumerate(draws):
        for weight, found in by_weight.items():
            model = MODEL.plus(weight if step.kind == "add" else -weight, FORGET)
            write(tmp_path / f"{model.digest}-{draw}.json", found)
    coefficients = Coefficients(low=1, high=4, trials=3)
    made = reader(tmp_path, endpoint, rules)
    found = choose_weight(made, "-f0", step, MODEL, FORGET, coefficients)
    assert found.weights[found.choice.candidate] == found.weight
    return found.weight, found.choice


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
    endpoint = SharedOut()
    weight, choice = search(tmp_path, addition(), [lost], Release(reread=0), endpoint)
    assert (weight, choice.verdict.feasible, choice.dead) == (1.0, False, 3)
    assert choice.reading.forget.value == 0.5
    assert {digest for digest, _ in endpoint.asked} == {MODEL.plus(1.0, FORGET).digest}


def test_a_reading_survives_its_file():
    for original in (BASE, Reading("m", BASE.utility)):
        assert to_plain(from_plain(Reading, to_plain(original))) == to_plain(original)
