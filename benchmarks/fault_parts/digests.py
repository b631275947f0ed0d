"""What digests of files cost of a run's time, over all of its processes.

In: a folder. Out: the share of the wall time of a tiny run on the embedded model, whose weights are
what there is to be hashed. Invariant: a file is hashed by `hashlib.file_digest` and nowhere else.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.fault_parts.outcome import ROOT
from benchmarks.fault_parts.rows import Row, Rows
from benchmarks.fault_parts.running import Running

LOG = "RNR_DIGEST_LOG"
# Python imports this by itself in every process that finds it on its path.
WATCHING = """
import hashlib, os, time
_digest = hashlib.file_digest
def file_digest(*arguments, **named):
    began = time.perf_counter()
    try:
        return _digest(*arguments, **named)
    finally:
        with open(os.environ["RNR_DIGEST_LOG"], "a") as log:
            log.write(f"{time.perf_counter() - began}\\n")
if "RNR_DIGEST_LOG" in os.environ:
    hashlib.file_digest = file_digest
"""


def watched_run(config: Path) -> Row:
    """A run of a config, and the seconds that its digests took."""
    with tempfile.TemporaryDirectory(prefix="rnr-digest-") as name:
        place = Path(name)
        log = place / "digests"
        log.touch()
        (place / "watching").mkdir()
        (place / "watching" / "sitecustomize.py").write_text(WATCHING, encoding="utf-8")
        path = os.pathsep.join([str(place / "watching"), str(ROOT)])
        began = time.monotonic()
        running = Running(
            ["run", str(config), "--run", "run"], place, {"PYTHONPATH": path, LOG: str(log)}
        )
        code, told = running.end(), running.output
        wall = time.monotonic() - began
        running.clear()
        taken = [float(line) for line in log.read_text(encoding="utf-8").split()]
    if code != 0:
        raise RuntimeError(f"{config} ended with {code}: {told[-2000:]}")
    return {"wall": wall, "digests": len(taken), "taken": sum(taken)}


def digest_share(folder: Path) -> dict[str, Any]:
    """Of `tests/e2e/tiny.yaml`: the weights of the demo in a fifth of its time."""
    config = ROOT / "tests" / "e2e" / "tiny.yaml"
    [row] = Rows(folder, "digests").measure([("tiny", lambda: watched_run(config))])
    return {"digest_share": row["taken"] / row["wall"], "digest_files": row["digests"]}
