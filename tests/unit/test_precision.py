"""The number format follows the machine unless the config names one."""

import pytest

from rnr_dist.run import precision


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        ({"avx", "avx2", "fma"}, "float32"),
        ({"avx512f", "avx512_vnni"}, "float32"),  # 512 bits wide, yet no bfloat16
        ({"avx512f", "avx512_bf16"}, "bfloat16"),
        ({"amx_bf16", "amx_tile"}, "bfloat16"),
        ({"asimd", "bf16"}, "bfloat16"),
        (set(), "float32"),
    ],
)
def test_auto_takes_bfloat16_where_the_cpu_multiplies_it(monkeypatch, features, expected):
    monkeypatch.setattr(precision, "cpu_features", lambda: frozenset(features))
    assert precision.compute_dtype("auto", on_gpu=False) == expected
    assert precision.compute_dtype("auto", on_gpu=True) == "bfloat16"


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_named_format_wins_over_the_machine(monkeypatch, dtype):
    monkeypatch.setattr(precision, "cpu_features", lambda: pytest.fail("not to be asked"))
    assert precision.compute_dtype(dtype, on_gpu=False) == dtype


def test_this_machine_knows_its_features():
    assert precision.cpu_features()
