"""The demo end to end: two engines share the card, and end before each training on the same one.

With `shrink` it is the small run of `benchmarks.fault_parts.small`, on a CPU.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.fault_parts.place import furnish
from benchmarks.fault_parts.small import arguments
from benchmarks.gpu_parts.place import Place, Skipped
from rnr_dist.run.extras import BRINGS, DEMO, RUN, lacking

ROOT = Path(__file__).resolve().parents[2]
ON_GPU = (
    "engines={count: 2, gpus_each: 0.3, kv_cache_gib: 4, max_num_seqs: 256}",
    "workers={gpus_each: 1, cpus_each: 4}",
)


def demo(place: Place) -> dict[str, Any]:
    """Seconds by stage, and how the result differs from the base."""
    if not place.shrink and (missing := lacking([*BRINGS[RUN], *BRINGS[DEMO]])):
        raise Skipped(f"found no package {', '.join(missing)}")
    folder = place.folder / "demo"
    folder.mkdir()
    words = ["run", "demo", *(word for one in ON_GPU for word in ("--set", one)), "--run", "run"]
    if place.shrink:
        furnish(folder)
        words = arguments("rr", "--run", "run")
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "rnr_dist", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=sys.stderr,
        check=True,
    )
    return {"seconds": round(time.perf_counter() - began), **came_to(folder / "run")}


def came_to(run: Path) -> dict[str, Any]:
    """What the run's summary says: seconds of each stage, changes of target and utilities."""
    from rnr_dist.report.summary import read_summary
    from rnr_dist.report.verdict import verdict

    found = read_summary(run / "summary.json")
    stages = json.loads((run / "stages.json").read_text(encoding="utf-8"))
    return {
        "stages": {stage["name"]: round(stage["wall_seconds"]) for stage in stages},
        "models": [row.name for row in found.rows],
        "verdict": verdict(found),
    }
