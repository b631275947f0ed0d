"""The SVD of a delta from its factors against that of the dense matrix."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rnr_dist.errors import InputError
from rnr_dist.weights.compression import compress, thin_svd

# Columns and rows, and ranks below, at and above them.
SHAPES = [(3, 24, 20), (9, 16, 32), (24, 16, 32), (40, 24, 20)]


def factors(rank, out, width, dtype=torch.float64):
    draw = torch.Generator().manual_seed(rank)
    return (
        torch.randn(rank, width, generator=draw, dtype=dtype),
        torch.randn(out, rank, generator=draw, dtype=dtype),
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_singular_values_and_vectors_are_those_of_the_dense_delta(shape):
    a, b = factors(*shape)
    u, s, vt = thin_svd(a, b)
    assert s.shape == (min(shape),)
    expected = np.linalg.svd((b @ a).numpy(), compute_uv=False)[: len(s)]
    np.testing.assert_allclose(s, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close((u * s) @ vt, b @ a, rtol=1e-10, atol=1e-10)
    for vectors in (u.T, vt):
        identity = torch.eye(len(s), dtype=torch.float64)
        torch.testing.assert_close(vectors @ vectors.T, identity, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("rank", [1, 4, 9, 50])
def test_compressed_deltas_are_the_best_and_the_error_is_theirs(rank, dtype, tolerance):
    found = {str(shape): factors(*shape, dtype) for shape in SHAPES}
    cut, truncation = compress(found, rank)
    lost = total = 0.0
    for module, (a, b) in found.items():
        small_a, small_b = cut[module]
        assert small_a.shape[0] == small_b.shape[1] <= rank
        assert small_a.dtype == small_b.dtype == dtype
        dense = (b.double() @ a.double()).numpy()
        difference = np.linalg.norm((small_b.double() @ small_a.double()).numpy() - dense)
        best = np.linalg.norm(np.linalg.svd(dense, compute_uv=False)[rank:])
        whole = np.linalg.norm(dense)
        assert difference == pytest.approx(best, abs=tolerance * whole)
        assert truncation.modules[module] == pytest.approx(best / whole, rel=1e-9, abs=1e-10)
        lost, total = lost + best**2, total + whole**2
    assert truncation.error == pytest.approx((lost / total) ** 0.5, rel=1e-9, abs=1e-10)
    assert truncation.modules[truncation.worst] == max(truncation.modules.values())


def test_modules_of_that_rank_stay_bit_by_bit():
    found = {"narrow": factors(3, 24, 20), "wide": factors(9, 24, 20)}
    cut, truncation = compress(found, 3)
    assert torch.equal(cut["narrow"][0], found["narrow"][0])
    assert truncation.modules["narrow"] == 0 < truncation.error < truncation.modules["wide"]


def test_a_zero_delta_has_no_error():
    a, b = factors(9, 24, 20)
    cut, truncation = compress({"zero": (a, 0 * b)}, 2)
    assert truncation.error == truncation.modules["zero"] == 0
    assert all(side.isfinite().all() for side in cut["zero"])


def test_a_rank_below_one_is_refused():
    with pytest.raises(InputError, match="rank: found 0; expected 1 or more"):
        compress({"m": factors(2, 4, 4)}, 0)
