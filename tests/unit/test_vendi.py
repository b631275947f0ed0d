"""Vendi scores against the independent package, closed cases and each other."""

import copy
import math

import numpy as np
import pytest
from vendi_score import vendi as reference

from rnr_dist.reveal import vendi
from rnr_dist.reveal.vendi import SecondMoment


def unit_rows(n: int, d: int, seed: int) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(n, d))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def moment(rows: np.ndarray) -> SecondMoment:
    return SecondMoment(rows.shape[1]).add(rows)


@pytest.mark.parametrize(("n", "d"), [(5, 12), (12, 5), (40, 40)])
def test_equals_the_vendi_score_package(n, d):
    rows = unit_rows(n, d, seed=n)
    assert vendi.vendi(moment(rows).mean()) == pytest.approx(reference.score_X(rows), abs=1e-8)
    assert vendi.vendi(moment(rows).mean()) == pytest.approx(
        reference.score_K(rows @ rows.T), abs=1e-8
    )


def test_three_equal_pairs_of_orthogonal_items_count_as_three():
    rows = np.eye(6)[[0, 0, 2, 2, 5, 5]]
    assert vendi.vendi(moment(rows).mean()) == pytest.approx(3, abs=1e-12)


def test_incremental_equals_batch_and_a_copy_stands_alone():
    rows = unit_rows(30, 8, seed=1)
    grown = moment(rows[:7])
    early = copy.deepcopy(grown)
    grown.add(rows[7:8]).add(rows[8:])
    np.testing.assert_allclose(grown.sum, moment(rows).sum, atol=1e-8)
    assert vendi.vendi(grown.mean()) == pytest.approx(vendi.vendi(moment(rows).mean()), abs=1e-8)
    assert early.count == 7
    np.testing.assert_array_equal(early.sum, moment(rows[:7]).sum)


def test_length_and_precision_of_embeddings_do_not_matter():
    rows = unit_rows(10, 6, seed=2)
    lengths = np.arange(1, 11)[:, None]
    assert vendi.vendi(moment(rows * lengths).mean()) == pytest.approx(
        vendi.vendi(moment(rows).mean()), abs=1e-9
    )
    halved = moment(rows.astype(np.float16))
    assert np.trace(halved.sum) == pytest.approx(10, abs=1e-12)


def test_normalised_spans_zero_to_one():
    assert vendi.normalised_vendi(1.0, 10, 4) == 0
    assert vendi.normalised_vendi(4.0, 10, 4) == 1
    assert vendi.normalised_vendi(2.0, 3, 9) == pytest.approx(math.log(2) / math.log(3))
    assert vendi.normalised_vendi(1.0, 1, 9) == 0
    assert vendi.normalised_vendi(1.0, 9, 1) == 0


def test_union_is_the_score_of_all_rows_together():
    batch, forget_set = unit_rows(5, 6, seed=3), unit_rows(20, 6, seed=4)
    together = vendi.normalised_vendi(reference.score_X(np.vstack([batch, forget_set])), 25, 6)
    assert vendi.union(batch, moment(forget_set)) == pytest.approx(together, abs=1e-8)
    assert vendi.union(batch, SecondMoment(6)) == pytest.approx(
        vendi.normalised_vendi(reference.score_X(batch), 5, 6), abs=1e-8
    )


@pytest.mark.parametrize("w", [0.25, 0.5, 1.0])
def test_weighted_is_the_score_under_item_probabilities(w):
    batch, forget_set = unit_rows(5, 40, seed=5), unit_rows(20, 40, seed=6)
    rows = np.vstack([batch, forget_set])
    shares = np.concatenate([np.full(5, w / 5), np.full(20, (1 - w) / 20)])
    score = reference.score_K(rows @ rows.T, p=shares)
    assert vendi.weighted(batch, moment(forget_set), w) == pytest.approx(
        vendi.normalised_vendi(score, 25, 40), abs=1e-8
    )


@pytest.mark.parametrize("rank", [3, 60, 200])
@pytest.mark.parametrize("w", [0.001, 0.5, 1.0])
def test_a_low_rank_update_has_the_entropy_of_the_updated_spectrum(rank, w):
    """Batches of few rows take the short way: full-rank, rank-deficient, and batches inside D."""
    forget_set = unit_rows(500, rank, seed=1) @ unit_rows(rank, 96, seed=2)
    for batch in (unit_rows(6, 96, seed=3), forget_set[:6], np.eye(96)[[4, 4, 4]]):
        density = (1 - w) * moment(forget_set).mean() + w * moment(batch).mean()
        eigenvalues = np.linalg.eigvalsh(density)
        eigenvalues = eigenvalues[eigenvalues > 0]
        expected = math.exp(-(eigenvalues * np.log(eigenvalues)).sum())
        found = vendi.weighted(batch, moment(forget_set), w)
        expected = vendi.normalised_vendi(expected, 500 + len(batch), 96)
        assert found == pytest.approx(expected, abs=1e-9)


def test_the_raw_union_of_a_large_set_equals_the_package():
    batch, forget_set = unit_rows(4, 128, seed=5), unit_rows(900, 128, seed=6)
    expected = reference.score_X(np.vstack([batch, forget_set]))
    assert vendi.union_raw(batch, moment(forget_set)) == pytest.approx(expected, abs=1e-6)


def test_weighted_of_an_empty_forget_set_is_the_batch_alone():
    batch = unit_rows(5, 8, seed=7)
    alone = vendi.normalised_vendi(vendi.vendi(moment(batch).mean()), 5, 8)
    assert vendi.weighted(batch, SecondMoment(8), 0.3) == pytest.approx(alone, abs=1e-12)


def test_the_weighted_measure_still_sees_a_batch_where_the_union_is_blind():
    forget_set = moment(unit_rows(2000, 64, seed=8))
    alike, diverse = np.eye(64)[[0] * 20], np.eye(64)[:20]
    blind = vendi.union(diverse, forget_set) - vendi.union(alike, forget_set)
    seeing = vendi.weighted(diverse, forget_set, 0.5) - vendi.weighted(alike, forget_set, 0.5)
    assert abs(blind) < 0.01
    assert seeing > 0.1


@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf])
def test_an_embedding_without_direction_is_refused(bad):
    rows = unit_rows(3, 4, seed=9)
    rows[1] = bad
    with pytest.raises(ValueError, match="embedding 1"):
        moment(rows)


def test_the_empty_set_has_no_score():
    with pytest.raises(ValueError, match="empty"):
        vendi.vendi(SecondMoment(4).mean())
