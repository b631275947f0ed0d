"""Intervals: they cover what they claim, respect clusters and never read zero as certainty."""

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from rnr_dist.run.codec import from_plain, to_plain
from rnr_dist.stats import (
    SMALL_COUNT,
    ClusterMean,
    exact_interval,
    interval,
    paired_ratio,
    resampling_counts,
)


def toxic_counts(contexts, each, seed, mean=0.3, concentration=1.0):
    """Contexts with rates of their own (beta), so that continuations of one go together."""
    draw = np.random.default_rng(seed)
    rates = draw.beta(mean * concentration, (1 - mean) * concentration, size=contexts)
    return ClusterMean(
        draw.binomial(each, rates).astype(float), np.full(contexts, float(each)), proportion=True
    )


def test_values_are_of_sums_and_perplexity_is_their_exponential():
    top, bottom = np.array([1.0, 6.0, 0.0]), np.array([2.0, 4.0, 1.0])
    assert ClusterMean(top, bottom).value == 1.0
    assert ClusterMean(top, bottom, exponential=True).value == pytest.approx(math.e)
    assert ClusterMean(top, bottom).n_contexts == 3
    assert ClusterMean(np.zeros(2), np.zeros(2)).value == 0.0


def test_draws_recompute_the_measure_of_resampled_contexts():
    measure = ClusterMean(np.array([1.0, 4.0]), np.array([2.0, 2.0]))
    drawn = measure.draws(np.array([[2.0, 0.0], [1.0, 1.0], [0.0, 2.0]]))
    assert drawn.tolist() == [0.5, 1.25, 2.0]


def test_resampling_counts_are_whole_bootstraps_and_the_same_again():
    counts = resampling_counts(7)
    assert counts.shape == (2000, 7)
    assert (counts.sum(1) == 7).all()
    assert np.array_equal(counts, resampling_counts(7))
    assert not np.array_equal(counts, resampling_counts(7, seed=1))


def test_95_percent_intervals_cover_about_95_percent():
    covered = 0
    for seed in range(200):
        low, high = interval(toxic_counts(60, 10, seed))
        covered += low <= 0.3 <= high
    assert 0.90 <= covered / 200 <= 0.99


def test_clusters_widen_the_interval_that_single_continuations_would_have():
    measure = toxic_counts(60, 10, 1)
    count, total = measure.numerator.sum(), measure.denominator.sum()
    flat = np.repeat([1.0, 0.0], [int(count), int(total - count)])
    naive = interval(ClusterMean(flat, np.ones(int(total)), proportion=True))
    clustered = interval(measure)
    # Continuations of one context correlate by 1/2: the design effect is 1 + 9/2.
    ratio = (clustered[1] - clustered[0]) / (naive[1] - naive[0])
    assert 1.6 < ratio < 3.2


@pytest.mark.parametrize(("count", "total"), [(0, 40), (3, 40), (17, 40), (40, 40)])
def test_exact_interval_is_clopper_pearson(count, total):
    low, high = exact_interval(count, total)
    assert low == pytest.approx(
        scipy_stats.beta.ppf(0.025, count, total - count + 1) if count else 0.0
    )
    assert high == pytest.approx(
        scipy_stats.beta.ppf(0.975, count + 1, total - count) if count < total else 1.0
    )


@pytest.mark.parametrize("count", [0, SMALL_COUNT - 1])
def test_small_counts_get_the_exact_interval_on_both_ends(count):
    few, total = np.zeros(30), np.full(30, 4.0)
    few[:count] = 1
    assert interval(ClusterMean(few, total, proportion=True)) == exact_interval(count, 120)
    most = ClusterMean(total - few, total, proportion=True)
    assert interval(most) == exact_interval(120 - count, 120)
    if not count:  # the bootstrap would be certain
        assert interval(ClusterMean(few, total)) == (0.0, 0.0)


def test_level_widens_the_interval():
    measure = toxic_counts(60, 10, 2)
    narrow, wide = interval(measure, 0.8), interval(measure, 0.99)
    assert wide[0] < narrow[0] < measure.value < narrow[1] < wide[1]


def test_paired_ratio_knows_that_contexts_are_the_same():
    draw = np.random.default_rng(0)
    hard = draw.lognormal(0, 1, 80)  # contexts differ widely, the model changes each by a tenth
    base = ClusterMean(hard, np.ones(80))
    measure = ClusterMean(0.9 * hard, np.ones(80))
    ratio, (low, high) = paired_ratio(measure, base)
    assert (ratio, low, high) == pytest.approx((0.9, 0.9, 0.9))
    shuffled = ClusterMean(draw.permutation(measure.numerator), np.ones(80))
    ratio, (low, high) = paired_ratio(shuffled, base)
    assert ratio == pytest.approx(0.9)
    assert low < 0.8 and high > 1.0


def test_paired_ratio_of_perplexities_is_of_their_exponentials():
    base = ClusterMean(np.array([3.0, 5.0]), np.array([2.0, 2.0]), exponential=True)
    measure = ClusterMean(base.numerator + 0.2, base.denominator, exponential=True)
    assert paired_ratio(measure, base)[0] == pytest.approx(math.exp(0.1))


def test_no_toxic_continuation_is_no_certain_ratio():
    base = toxic_counts(40, 5, 3)
    none = ClusterMean(np.zeros(40), np.full(40, 5.0), proportion=True)
    ratio, (low, high) = paired_ratio(none, base)
    assert (ratio, low) == (0.0, 0.0)
    assert high == pytest.approx(exact_interval(0, 200)[1] / base.value)


def test_a_base_of_zero_has_no_ratio():
    none = ClusterMean(np.zeros(4), np.ones(4), proportion=True)
    ratio, bounds = paired_ratio(none, none)
    assert math.isnan(ratio) and all(map(math.isnan, bounds))


def test_json_round_trip():
    measure = toxic_counts(5, 3, 4)
    again = from_plain(ClusterMean, to_plain(measure))
    assert np.array_equal(again.numerator, measure.numerator)
    assert np.array_equal(again.denominator, measure.denominator)
    assert (again.proportion, again.exponential) == (True, False)
