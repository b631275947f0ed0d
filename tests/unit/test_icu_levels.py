"""Levels of never-seen sequences: the nearest ones', and a config's limits above them."""

import numpy as np
import pytest

from rnr_dist.config.unlearning import Pairing
from rnr_dist.icu.leaving import Limits
from rnr_dist.icu.levels import Levels, level_of, nearest, reachable
from rnr_dist.types import TokenSequence

FIGURES = {
    "bertscore": np.array([0.2, 0.4, 0.9]),
    "bleu": np.array([0.1, 0.5, 0.6]),
    "extraction": np.array([0.0, 0.1, 0.5]),
    "memorisation": np.array([0.5, 0.6, 1.0]),
}


def test_texts_scores_are_a_quantile_and_recall_a_mean():
    level = level_of(FIGURES, [0, 1, 2], 0.5)
    assert level == Limits(0.4, 0.5, pytest.approx(0.2), pytest.approx(0.7))
    assert level_of(FIGURES, [0, 1], 1.0).bertscore == 0.4


def test_the_nearest_are_those_of_brute_force():
    draw = np.random.default_rng(0)
    vectors, unseen = (draw.normal(size=(many, 4)) for many in (6, 9))
    for vector, row in zip(vectors, nearest(vectors, unseen, 3, Pairing()), strict=True):
        products = [float(vector @ other) for other in unseen]
        assert row == sorted(range(9), key=lambda at: -products[at])[:3]
    assert len(nearest(vectors, unseen, 20, Pairing())[0]) == 9  # fewer than asked for


def test_levels_follow_the_order_of_the_sequences():
    one, other = (TokenSequence(name, "", (1, 2), "") for name in "ab")
    levels = Levels(Limits(0, 0, 0, 0), {"a": Limits(1, 1, 1, 1), "b": Limits(2, 2, 2, 2)})
    assert [level.bleu for level in levels.of([other, one])] == [2, 1]


def test_of_extraction_no_sequence_is_asked_for_less_than_the_average():
    average = Limits(0.5, 0.5, 0.05, 0.6)
    assert reachable(Limits(0.4, 0.4, 0.0, 0.5), average) == Limits(0.4, 0.4, 0.05, 0.5)
    assert reachable(Limits(0.4, 0.4, 0.2, 0.7), average).extraction == 0.2
