"""What is lost, wrong in silence, or told in a traceback: bad inputs, damages, kills, a soak.

    python benchmarks/faults.py                       all parts, at most 90 minutes
    python benchmarks/faults.py bad-inputs damaged    some of them
    python benchmarks/faults.py --folder FOLDER       where rows are kept, and gone on with

Rows are JSON lines in the folder, and count for the sources that they were measured with. The last
line of the output is one JSON object; a figure that a part would bring which was not asked for is
null. Aims: `tracebacks`, `wrong_in_silence`, `faults_lost`, `secrets_found` and `soak_lost` 0,
`soak_memory_growth` at most .05, `ctrl_c_seconds` at most 15, `digest_share` at most .01.
"""

from __future__ import annotations

import importlib
import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.fault_parts.rows import Rows  # noqa: E402
from benchmarks.parts import Benchmark, later  # noqa: E402

SOAK_MINUTES = 30.0


def soak(folder: Path) -> dict[str, Any]:
    """In a process of its own, whose memory is looked at."""

    def measured() -> dict[str, Any]:
        command = [sys.executable, "-m", "benchmarks.fault_parts.soak", str(SOAK_MINUTES)]
        ended = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
        figures: dict[str, Any] = json.loads(ended.stdout.strip().splitlines()[-1])
        return figures

    [row] = Rows(folder, "soak").measure([("soak", measured)])
    return {key: value for key, value in row.items() if key.startswith("soak_")}


def in_a_place(
    folder: Path, part: str, case: str, measured: Callable[[Any, Path], dict[str, Any]]
) -> dict[str, Any]:
    """The one row of a part whose module works in a folder that nobody keeps."""
    module = importlib.import_module(f"benchmarks.fault_parts.{part}")
    with tempfile.TemporaryDirectory(prefix=f"rnr-{case}-") as made:
        [row] = Rows(folder, part).measure([(case, lambda: measured(module, Path(made)))])
    return row


def matrix(folder: Path) -> dict[str, Any]:
    """The architectures, each through everything."""
    row = in_a_place(folder, "models", "matrix", lambda module, made: module.matrix(made))
    return {"models": row, "models_silent": row["wrong_in_silence"]}


def secrets(folder: Path) -> dict[str, Any]:
    """Planted tokens, looked for in all that a run leaves and prints."""
    row = in_a_place(
        folder, "secrets", "planted", lambda module, made: {"found": module.secrets_found(made)}
    )
    return {"secrets_found": row["found"]}


# Quick ones first; the soak, which nobody has to wait for, last.
PARTS = {
    "bad-inputs": later("fault_parts.inputs", "bad_inputs"),
    "models": matrix,
    "damaged": later("fault_parts.damaged", "damaged"),
    "secrets": secrets,
    "faults": later("fault_parts.injected", "faults"),
    "signals": later("fault_parts.pressed", "signals"),
    "digests": later("fault_parts.digests", "digest_share"),
    "soak": soak,
}
HEADLINES = (
    *("tracebacks", "wrong_in_silence", "faults_lost", "secrets_found", "soak_memory_growth"),
    *("soak_lost", "ctrl_c_seconds", "digest_share"),
)


def follows(found: dict[str, Any]) -> dict[str, Any]:
    """The figures that several parts add to."""
    told: dict[str, Any] = {}
    if "bad_inputs" in found or "damaged" in found:
        refused = sum(found.get("bad_inputs_not_refused", {}).values())
        told["tracebacks"] = refused + len(found.get("damaged_tracebacks", []))
    if "damaged" in found or "models_silent" in found:
        unseen = {*found.get("damaged_silent", []), *found.get("damaged_unseen_by_verify", [])}
        told["wrong_in_silence"] = len(unseen) + found.get("models_silent", 0)
    return told


BENCHMARK = Benchmark(
    name="faults",
    description="Inject faults and count what they cost.",
    folder_of="the rows",
    parts=PARTS,
    headlines=HEADLINES,
    follows=follows,
)


def main() -> None:
    # What a part has started, and mounted, ends with it when the benchmark is told to end.
    signal.signal(signal.SIGTERM, lambda *told: sys.exit(143))
    BENCHMARK.main()


if __name__ == "__main__":
    main()
