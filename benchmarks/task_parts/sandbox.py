"""The sandbox: how many small checks it makes in a second; whether hostile programs are held."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import psutil

from rnr_dist.sandbox.layers import strongest
from rnr_dist.sandbox.runner import Sandbox
from rnr_dist.sandbox.verdicts import Check, Limits
from tests.unit.hostile import HOSTILE

CHECKS, WORKERS = 1000, 2
GONE_SECONDS = 5.0


def throughput(folder: Path) -> dict[str, Any]:
    """`checks_per_second`: different small programs of three tests each, by two workers, nothing
    kept. `load`: processes that wanted a core beside these, over the last minute."""
    checks = [
        Check(
            f"def f(x):\n    return x + {n}", tuple(f"assert f({x}) == {x + n}" for x in range(3))
        )
        for n in range(CHECKS)
    ]
    sandbox = Sandbox(strongest(), workers=WORKERS)
    began = time.perf_counter()
    verdicts = sandbox.check_all(checks)
    seconds = time.perf_counter() - began
    assert all(one.passed for one in verdicts)
    return {
        "checks_per_second": round(CHECKS / seconds, 1),
        "layer": sandbox.layer.name,
        "load": round(os.getloadavg()[0], 1),
    }


def hostile(folder: Path) -> dict[str, Any]:
    """`hostile_contained`: the share of hostile programs that got their verdict and left no process
    behind; `not_contained` names the others."""
    found = []
    for one in HOSTILE:
        limits = Limits(cpu=1, wall=0.5 if one.name == "sleeps" else 15.0)
        verdict = Sandbox(strongest()).check(Check(one.program, (one.test,)), limits)
        if verdict.outcome is not one.ends or _left():
            found.append(f"{one.name}: {verdict.outcome}")
    share = 1 - len(found) / len(HOSTILE)
    return {"hostile_contained": share, "hostile": len(HOSTILE), "not_contained": found}


def _left() -> bool:
    """Whether a process of this one is still there after a moment."""
    _, alive = psutil.wait_procs(psutil.Process().children(recursive=True), timeout=GONE_SECONDS)
    return bool(alive)
