"""Which number format a machine computes in.

In: the config's `dtype` and whether a GPU does the work. Out: a torch dtype's name. Invariant: it
is asked on the machine that computes, so a cluster's nodes may differ; weights on disk stay as they
are.
"""

from __future__ import annotations

from functools import cache
from typing import Any

# CPU features that multiply bfloat16 matrices; the last one is ARM's.
NATIVE_BFLOAT16 = {"avx512_bf16", "amx_bf16", "bf16"}


def compute_dtype(dtype: str, on_gpu: bool) -> str:
    """`dtype` itself, or for `auto` the faster of bfloat16 and float32 on this machine.

    A CPU without bfloat16 arithmetic emulates it at a seventh of its float32 speed (docs/LOG.md).
    """
    if dtype != "auto":
        return dtype
    return "bfloat16" if on_gpu or NATIVE_BFLOAT16 & cpu_features() else "float32"


@cache
def cpu_features() -> frozenset[str]:
    """This machine's CPU feature flags, as the kernel names them."""
    return frozenset(_cpu().get("flags", []))


def machine_name() -> str:
    """What a timing depends on here: processor, cores, memory, the CPU's format."""
    import psutil

    cores = psutil.cpu_count()
    memory = psutil.virtual_memory().total / 2**30
    dtype = compute_dtype("auto", on_gpu=False)
    return f"{_cpu().get('brand_raw', 'unknown CPU')}, {cores} cores, {memory:.0f} GiB, {dtype}"


@cache
def _cpu() -> dict[str, Any]:
    import cpuinfo  # a second to ask, so only when wanted

    info: dict[str, Any] = cpuinfo.get_cpu_info()
    return info
