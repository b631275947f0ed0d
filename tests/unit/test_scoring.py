"""The harmonic score: its limits, its monotony, and rescoring from what a pull stores."""

import copy

import numpy as np
import pytest

from rnr_dist.reveal.scoring import EPSILON, harmonic, score_batch
from rnr_dist.reveal.vendi import SecondMoment


def embeddings(n: int, d: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d))


def test_by_hand():
    assert harmonic(0.5, 0.25, 0.5) == pytest.approx(1 / (0.5 / 0.25 + 0.5 / 0.5))


def test_alpha_goes_from_relevance_to_diversity():
    assert harmonic(0.7, 0.2, 0.0) == pytest.approx(0.7)
    assert harmonic(0.7, 0.2, 1.0) == pytest.approx(0.2)
    assert harmonic(0.7, 0.2, 1e-9) == pytest.approx(0.7)


def test_strictly_monotone_in_both():
    grid = np.linspace(EPSILON, 1, 50)
    assert (np.diff([harmonic(tau, 0.4, 0.3) for tau in grid]) > 0).all()
    assert (np.diff([harmonic(0.4, v, 0.3) for v in grid]) > 0).all()


def test_with_a_raw_vendi_score_relevance_decides_nearly_alone():
    """The bounds that docs/reveal.md gives for Algorithm 1's line 12."""
    for alpha in (0.25, 0.5, 0.75):
        for tau in (0.1, 0.5, 0.9):
            lowest, highest = 1 / (alpha + (1 - alpha) / tau), tau / (1 - alpha)
            found = [harmonic(tau, v, alpha) for v in (1, 2, 10, 100, 1e9)]
            assert found == sorted(found)
            assert found[0] == pytest.approx(lowest) and found[-1] == pytest.approx(highest)
    twice_as_diverse = harmonic(0.5, 40, 0.5) / harmonic(0.5, 20, 0.5)
    assert twice_as_diverse == pytest.approx(
        harmonic(0.5065, 20, 0.5) / harmonic(0.5, 20, 0.5), 1e-3
    )
    assert harmonic(0.8, 5, 0.5) > 1


def test_zeros_are_clamped():
    assert harmonic(0.0, 0.5, 0.5) == harmonic(EPSILON, 0.5, 0.5) > 0
    assert harmonic(0.5, 0.0, 0.5) == harmonic(0.5, EPSILON, 0.5) > 0
    assert harmonic(0.0, 0.0, 0.5) == pytest.approx(EPSILON)


@pytest.mark.parametrize("mode", ["weighted", "union", "union_raw"])
def test_cached_rescoring_equals_a_fresh_score(mode):
    """A pull scored at the first D and rescored at the third equals one scored at the third."""
    stored, first, second = embeddings(6, 16, 1), embeddings(10, 16, 2), embeddings(9, 16, 3)
    grown = SecondMoment(16)
    at_start = score_batch(stored, 0.6, grown, 0.5, mode, 0.5)
    grown.add(first)
    score_batch(stored, 0.6, grown, 0.5, mode, 0.5)
    grown.add(second)
    rescored = score_batch(stored, 0.6, grown, 0.5, mode, 0.5)
    fresh_forget_set = SecondMoment(16).add(np.vstack([first, second]))
    fresh = score_batch(copy.deepcopy(stored), 0.6, fresh_forget_set, 0.5, mode, 0.5)
    assert rescored == pytest.approx(fresh, abs=1e-9)
    assert rescored != pytest.approx(at_start, abs=1e-3)


@pytest.mark.parametrize("mode", ["weighted", "union", "union_raw"])
def test_scoring_leaves_the_forget_set_alone(mode):
    forget_set = SecondMoment(8).add(embeddings(12, 8, 4))
    before = copy.deepcopy(forget_set)
    score_batch(embeddings(5, 8, 5), 0.5, forget_set, 0.5, mode, 0.5)
    assert forget_set.count == before.count
    np.testing.assert_array_equal(forget_set.sum, before.sum)


def test_diversities_differ_and_the_score_is_the_mean_of_its_parts():
    batch, forget_set = embeddings(5, 8, 6), SecondMoment(8).add(np.eye(8)[[0] * 40])
    score, diversity = score_batch(batch, 0.5, forget_set, 0.25, "weighted", 0.5)
    assert score == pytest.approx(harmonic(0.5, diversity, 0.25))
    _, in_union = score_batch(batch, 0.5, forget_set, 0.25, "union", 0.5)
    assert in_union < diversity  # forty alike items drown five
    _, heavier = score_batch(batch, 0.5, forget_set, 0.25, "default", 0.9)
    assert heavier > diversity


def test_what_the_forget_set_holds_already_scores_lower():
    known, new = np.eye(16)[:4], np.eye(16)[4:8]
    forget_set = SecondMoment(16).add(np.repeat(known, 10, axis=0))
    repeated, _ = score_batch(known, 0.5, forget_set, 0.5, "default", 0.5)
    novel, _ = score_batch(new, 0.5, forget_set, 0.5, "default", 0.5)
    assert novel > repeated
