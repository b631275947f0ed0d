"""Ext-Sub as an adapter against its formula on dense deltas, row by row."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from rnr_dist.errors import InputError
from rnr_dist.types import ModelRef
from rnr_dist.weights.checkpoints import checkpoint_digest
from rnr_dist.weights.composition import add_to_model, load_adapter, save_adapter
from rnr_dist.weights.ext_sub import combine, ext_sub, orthonormal

Q, K, V = (f"model.layers.0.self_attn.{name}_proj" for name in "qkv")
WIDTHS = {Q: 32, K: 16, V: 16}  # grouped-query attention: keys and values are narrower
ALPHA = 0.7


def literally(plus: torch.Tensor, minus: torch.Tensor, alpha: float) -> torch.Tensor:
    """The formula on dense deltas, with no direction for a zero row or a cancelled sum."""

    def direction(row):
        length = row.norm()
        return row / length if length > 1e-12 else torch.zeros_like(row)

    rows = []
    for p, m in zip(plus, minus, strict=True):
        u = direction(direction(p) + direction(m))
        rows.append(p - alpha * m + alpha * (m @ u) * u)
    return torch.stack(rows)


def factors(seed, rank, widths=WIDTHS, dtype=torch.float64):
    draw = torch.Generator().manual_seed(seed)
    return {
        module: (
            torch.randn(rank, 32, generator=draw, dtype=dtype),
            torch.randn(width, rank, generator=draw, dtype=dtype),
        )
        for module, width in widths.items()
    }


def dense(found, module):
    a, b = found[module]
    return b @ a


def write(folder, found, alpha=8.0, trained_on="t"):
    return save_adapter(
        folder, found, alpha=alpha, base="org/base", trained_on=trained_on, side="retain"
    )


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0, 2.5])
def test_every_row_is_that_of_the_formula(alpha):
    expert, anti_expert = factors(1, 5), factors(2, 3)
    combined = combine(expert, anti_expert, alpha)
    for module in WIDTHS:
        plus, minus = dense(expert, module), dense(anti_expert, module)
        torch.testing.assert_close(
            dense(combined, module), literally(plus, minus, alpha), rtol=1e-10, atol=1e-10
        )
        assert combined[module][0].shape[0] == 5 + 3


def test_zero_and_opposite_rows_are_right_and_finite():
    expert, anti_expert = factors(1, 4), factors(2, 4)
    for module in WIDTHS:
        (a, b), (_, anti_b) = expert[module], anti_expert[module]
        anti_expert[module] = a, anti_b  # the same A, so that rows can be opposite
        b[0] = 0
        anti_b[1] = 0
        b[2] = anti_b[2] = 0
        anti_b[3] = -3 * b[3]
        anti_b[4] = 0.5 * b[4]
        anti_b[5] = -b[5] * (1 + 1e-13)  # all but opposite
    combined = combine(expert, anti_expert, ALPHA)
    for module in WIDTHS:
        found, plus, minus = (dense(f, module) for f in (combined, expert, anti_expert))
        assert found.isfinite().all()
        torch.testing.assert_close(found, literally(plus, minus, ALPHA), rtol=1e-10, atol=1e-10)
        assert found[0].count_nonzero() == found[2].count_nonzero() == 0
        torch.testing.assert_close(found[1], plus[1], rtol=1e-12, atol=1e-12)
        for opposite in (3, 5):
            expected = plus[opposite] - ALPHA * minus[opposite]
            torch.testing.assert_close(found[opposite], expected, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(found[4], plus[4], rtol=1e-10, atol=1e-10)  # all is shared


def test_rows_that_cancel_are_zero_rows():
    """Stacked adapters can cancel: what is left is rounding, not a direction."""
    (a, b), anti_expert = factors(1, 4)[Q], factors(2, 3)
    b[1] = 0
    noisy = {
        Q: (torch.cat([a, a / 3]), torch.cat([b, -3 * b * (torch.arange(32) < 9)[:, None]], 1))
    }
    assert 0 < dense(noisy, Q)[0].norm() < 1e-13
    found = dense(combine(noisy, anti_expert, ALPHA), Q)
    assert found[:9].count_nonzero() == 0
    minus = dense(anti_expert, Q)
    torch.testing.assert_close(
        found[9:], literally(b[9:] @ a, minus[9:], ALPHA), rtol=1e-10, atol=1e-10
    )


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("rank", [1, 4, 40])  # 40 above the 32 columns
def test_row_norms_need_no_dense_delta(dtype, tolerance, rank):
    for a, b in factors(3, rank, dtype=dtype).values():
        b[2] = 0
        down, up = orthonormal(a, b)
        norms = (b @ a).norm(dim=1).double()
        torch.testing.assert_close(up.norm(dim=1), norms, rtol=tolerance, atol=0)
        torch.testing.assert_close(
            (up @ down).to(dtype), b @ a, rtol=tolerance, atol=20 * tolerance
        )
        assert up[2].count_nonzero() == 0


def test_modules_that_one_of_them_lacks_are_zero_rows_to_it():
    expert, anti_expert = factors(1, 2, {Q: 32, K: 16}), factors(2, 2, {Q: 32, V: 16})
    combined = combine(expert, anti_expert, ALPHA)
    assert combined.keys() == {Q, K}
    torch.testing.assert_close(dense(combined, K), dense(expert, K))


def test_the_written_adapter_is_the_formula_in_peft_and_in_composition(tmp_path, tiny_llama):
    checkpoint = tiny_llama(tmp_path / "base")
    plus, minus = factors(1, 5, dtype=torch.float32), factors(2, 3, {Q: 32, K: 16}, torch.float32)
    expert, anti_expert = write(tmp_path / "plus", plus), write(tmp_path / "minus", minus, 1.5)
    result = ext_sub(expert, anti_expert, ALPHA, tmp_path / "out")
    assert (result.trained_on, result.side) == ("t", "forget")
    written = load_adapter(result.path)
    for module, (a, b, scaling) in written.items():
        there = dense(minus, module) if module in minus else torch.zeros(WIDTHS[module], 32)
        expected = literally(8 / 5 * dense(plus, module), 1.5 / 3 * there, ALPHA)
        assert (a.shape[0], scaling) == (5 + 3, 1)
        torch.testing.assert_close(b @ a, expected, rtol=1e-5, atol=1e-5 * float(expected.max()))
    tokens = torch.arange(12)[None]
    with torch.no_grad():
        model = AutoModelForCausalLM.from_pretrained(checkpoint)
        add_to_model(
            model, ModelRef(str(checkpoint), checkpoint_digest(checkpoint)).plus(1, result).terms
        )
        composed = model(tokens).logits
        model = AutoModelForCausalLM.from_pretrained(checkpoint)
        peft = PeftModel.from_pretrained(model, result.path)
        assert peft.peft_config["default"].base_model_name_or_path == "org/base"
        # Two orders of adding in fp32, which differ by the CPU.
        torch.testing.assert_close(
            peft(tokens).logits, composed, rtol=0, atol=1e-4 * float(composed.abs().max())
        )


def test_adapters_that_cannot_be_combined_are_refused(tmp_path):
    expert = write(tmp_path / "plus", factors(1, 2))
    out = tmp_path / "out"
    other = write(tmp_path / "other", factors(2, 2), trained_on="another")
    with pytest.raises(InputError, match="other: was trained on the model another; expected t, as"):
        ext_sub(expert, other, ALPHA, out)
    wide = write(tmp_path / "wide", factors(2, 2, {Q: 32, K: 24}))
    with pytest.raises(InputError, match=r"wide: found a delta \(24, 32\).*k_proj; expected \(16"):
        ext_sub(expert, wide, ALPHA, out)
    mlp = write(tmp_path / "mlp", factors(2, 2, {"model.layers.0.mlp.up_proj": 48}))
    with pytest.raises(InputError, match=r"mlp: found .*up_proj; expected a module of .*plus, as"):
        ext_sub(expert, mlp, ALPHA, out)
    with pytest.raises(InputError, match=r"plus: found weights .* expected stale"):
        ext_sub(replace(expert, digest="stale"), write(tmp_path / "m", factors(2, 2)), ALPHA, out)
    for alpha in (-0.1, float("nan"), float("inf")):
        with pytest.raises(InputError, match=r"found alpha .* expected a finite number, 0 or more"):
            ext_sub(expert, expert, alpha, out)
    assert not out.exists()
