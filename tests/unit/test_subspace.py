"""Subspace similarity against the dense definition, and the two levels that it is read by."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from rnr_dist.errors import InputError
from rnr_dist.types import ModelRef
from rnr_dist.weights.composition import save_adapter
from rnr_dist.weights.subspace import similarity, similarity_rows

WIDTHS = {"q_proj": 48, "k_proj": 24, "v_proj": 24}


def write(folder, seed, rank, widths=WIDTHS, change=None):
    draw = torch.Generator().manual_seed(seed)
    factors = {
        module: (
            torch.randn(rank, 40, generator=draw),
            torch.randn(width, rank, generator=draw),
        )
        for module, width in widths.items()
    }
    if change:
        change(factors)
    adapter = save_adapter(folder, factors, alpha=3, base="", trained_on="t", side="forget")
    return adapter, {module: (b @ a).double().numpy() for module, (a, b) in factors.items()}


def literally(one, other, k):
    """The paper's formula by SVD of the dense deltas."""
    left, right = (np.linalg.svd(delta)[0][:, :k] for delta in (one, other))
    return np.linalg.norm(left.T @ right) / k


@pytest.mark.parametrize(("k", "used"), [(8, 6), (4, 4), (1, 1)])
def test_similarity_is_that_of_the_dense_deltas(tmp_path, k, used):
    one, deltas = write(tmp_path / "one", 1, 10)
    other, others = write(tmp_path / "other", 2, 6)
    found = similarity(one, other, k)
    assert found.modules.keys() == WIDTHS.keys()
    values = {module: literally(deltas[module], others[module], used) for module in WIDTHS}
    for module, value in values.items():
        here = found.modules[module]
        assert here.value == pytest.approx(value, rel=1e-5)
        assert (here.k, here.width) == (used, WIDTHS[module])
        assert here.chance == pytest.approx(WIDTHS[module] ** -0.5)
        assert here.maximum == pytest.approx(used**-0.5)
    assert found.mean == pytest.approx(np.mean(list(values.values())), rel=1e-5)
    assert found.std == pytest.approx(np.std(list(values.values())), rel=1e-4)
    assert found.chance == pytest.approx(np.mean([d**-0.5 for d in WIDTHS.values()]))
    assert found.maximum == pytest.approx(used**-0.5)


def test_an_adapter_reaches_the_maximum_with_itself_and_zero_with_the_orthogonal(tmp_path):
    def upper(factors):
        for _, b in factors.values():
            b[b.shape[0] // 2 :] = 0

    def lower(factors):
        for _, b in factors.values():
            b[: b.shape[0] // 2] = 0

    one, _ = write(tmp_path / "one", 1, 8, change=upper)
    other, _ = write(tmp_path / "other", 2, 8, change=lower)
    assert similarity(one, one).mean == pytest.approx(8**-0.5, rel=1e-6)
    assert similarity(one, other).mean == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("k", "shortfall"), [(8, 0.005), (1, 0.21)])
def test_the_chance_level_is_what_random_subspaces_give(k, shortfall):
    draw, width = np.random.default_rng(0), 64
    found = [
        np.linalg.norm(np.linalg.qr(draw.normal(size=(width, k)))[0][:k]) / k for _ in range(4000)
    ]
    chance = width**-0.5
    assert np.sqrt(np.mean(np.square(found))) == pytest.approx(chance, rel=0.03)
    assert np.mean(found) == pytest.approx(chance * (1 - shortfall), rel=0.03)


def test_modules_without_a_counterpart_or_a_delta_are_left_out(tmp_path):
    def untrained(factors):
        factors["k_proj"][1].zero_()

    def weak(factors):
        factors["q_proj"][1][:, 3:] = 0

    one, _ = write(tmp_path / "one", 1, 8, change=untrained)
    other, _ = write(tmp_path / "other", 2, 8, {"q_proj": 48, "k_proj": 24, "o_proj": 48}, weak)
    found = similarity(one, other)
    assert found.modules.keys() == {"q_proj"}
    assert found.modules["q_proj"].k == 3  # directions that are not there are not compared


def test_all_pairs_of_a_composed_model_go_by_the_names_of_eq_1(tmp_path):
    model = ModelRef("/base", "base")
    adapters = [
        replace(write(tmp_path / str(seed), seed, 8)[0], side=side)
        for seed, side in enumerate(("forget", "retain", "forget"))
    ]
    alone, _ = write(tmp_path / "alone", 9, 8, {"other_proj": 48})
    for adapter in (*adapters, alone):
        model = model.plus(0.5, adapter)
    rows = similarity_rows(model, k=4)
    pairs = [(row["one"], row["other"]) for row in rows]
    assert pairs == [("f0", "r1"), ("f0", "f1"), ("r1", "f1")]  # the last shares no module
    found = similarity(adapters[0], adapters[2], 4)
    assert (rows[1]["mean"], rows[1]["chance"]) == (found.mean, found.chance)
    assert rows[1]["modules"] == 3


def test_what_cannot_be_compared_is_refused(tmp_path):
    one, _ = write(tmp_path / "one", 1, 4)
    with pytest.raises(InputError, match="k: found 0; expected 1 or more"):
        similarity(one, one, 0)
    wide, _ = write(tmp_path / "wide", 2, 4, {"q_proj": 64})
    with pytest.raises(InputError, match=r"wide: found a delta \(64, 40\) for q_proj; expected"):
        similarity(one, wide)
    mlp, _ = write(tmp_path / "mlp", 2, 4, {f"{i}.up_proj": 64 for i in range(3)})
    with pytest.raises(InputError, match=r"mlp: found 0\.up_proj, 1\.up_proj and 1 more; expected"):
        similarity(one, mlp)

    def untrained(factors):
        for _, b in factors.values():
            b.zero_()

    zero, _ = write(tmp_path / "zero", 2, 4, change=untrained)
    with pytest.raises(InputError, match=r"zero: found no module .* expected trained adapters"):
        similarity(one, zero)
