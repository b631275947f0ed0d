"""The nucleus without a sort of the vocabulary is the nucleus with one."""

import pytest
import torch

from rnr_dist.generate.nucleus import CANDIDATES, mask_nucleus, nucleus_threshold

VOCABULARY = 6000  # flat rows hold p = .9 in more tokens than CANDIDATES: the fallback sorts them
PEAKED, FLAT = 4.0, 0.05
ROUNDING = 1e-6  # of float32 probabilities, cumulated


def mass_above(row):
    """(vocabulary,) float64: the mass of all tokens that are more likely than each."""
    values, inverse = torch.unique(row.double(), return_inverse=True)
    mass = torch.zeros_like(values).scatter_add(0, inverse, torch.softmax(row.double(), -1))
    return (mass.flip(0).cumsum(0).flip(0) - mass)[inverse]


def is_nucleus(kept, row, p):
    """Kept is every token with less than p above it; float32 may err where that is p."""
    above = mass_above(row)
    surely = (above - p).abs() > ROUNDING
    return torch.equal(kept[surely], above[surely] < p)


def rows_of(spreads, seed=0, vocabulary=VOCABULARY):
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(len(spreads), vocabulary, generator=generator)
    return noise * torch.tensor(spreads)[:, None]


@pytest.mark.parametrize("p", [0.1, 0.9, 0.999])
@pytest.mark.parametrize("spread", [PEAKED, 1.0, FLAT])
def test_mask_is_that_of_a_full_sort(p, spread):
    logits = rows_of([spread] * 4)
    kept = mask_nucleus(logits.clone(), torch.full((4,), p)) > -torch.inf
    for row in range(4):
        assert 0 < kept[row].sum() < VOCABULARY
        assert is_nucleus(kept[row], logits[row], p)


def test_flat_rows_need_more_than_the_candidates():
    # Otherwise the test above would never reach the fallback.
    assert (mass_above(rows_of([FLAT])[0]) < 0.9).sum() > CANDIDATES
    assert (mass_above(rows_of([PEAKED])[0]) < 0.9).sum() < CANDIDATES


def test_each_row_has_its_own_p_and_rows_without_stay_as_they_are():
    spreads = [PEAKED, FLAT, PEAKED, FLAT, FLAT, 1.0]
    p = torch.tensor([0.5, 0.9, 1.0, 1.0, 0.2, 0.999])
    logits = rows_of(spreads)
    masked = mask_nucleus(logits.clone(), p)
    for row in range(len(spreads)):
        if p[row] == 1:
            assert torch.equal(masked[row], logits[row])
            continue
        kept = masked[row] > -torch.inf
        assert is_nucleus(kept, logits[row], p[row].item())
        assert torch.equal(masked[row][kept], logits[row][kept])


def test_batches_without_any_nucleus_stay_as_they_are():
    logits = rows_of([PEAKED, FLAT])
    assert torch.equal(mask_nucleus(logits.clone(), torch.ones(2)), logits)


def test_ties_at_the_threshold_are_all_kept():
    logits = torch.log(torch.tensor([[0.1, 0.4, 0.1, 0.1, 0.2, 0.1]]))
    kept = mask_nucleus(logits, torch.tensor([0.65]))[0] > -torch.inf
    assert kept.all()  # .4 + .2 is short of .65: one of four equal tokens is needed, so all are
    logits = torch.log(torch.tensor([[0.1, 0.4, 0.1, 0.1, 0.2, 0.1]]))
    kept = mask_nucleus(logits, torch.tensor([0.55]))[0] > -torch.inf
    assert kept.tolist() == [False, True, False, False, True, False]


def test_the_most_likely_token_is_always_kept():
    logits = rows_of([PEAKED, FLAT])
    kept = mask_nucleus(logits.clone(), torch.full((2,), 1e-6)) > -torch.inf
    assert kept.sum(-1).tolist() == [1, 1]
    assert torch.equal(kept.int().argmax(-1), logits.argmax(-1))


def test_tokens_that_are_masked_already_carry_no_mass():
    logits = rows_of([1.0])
    logits[0, ::2] = -torch.inf
    masked = mask_nucleus(logits.clone(), torch.tensor([0.9]))[0]
    assert is_nucleus(masked > -torch.inf, logits[0], 0.9)


def test_small_vocabularies_are_no_special_case():
    logits = rows_of([1.0, FLAT], vocabulary=7)
    threshold = nucleus_threshold(logits, torch.tensor([0.9, 0.5]))
    for row, p in enumerate([0.9, 0.5]):
        assert is_nucleus(logits[row] >= threshold[row], logits[row], p)
