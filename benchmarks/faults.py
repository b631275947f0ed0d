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

import argparse
import importlib
import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import platformdirs

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.fault_parts.rows import Rows  # noqa: E402

SOAK_MINUTES = 30.0
Part = Callable[[Path], dict[str, Any]]


def soak(folder: Path) -> dict[str, Any]:
    """In a process of its own, whose memory is looked at."""

    def measured() -> dict[str, Any]:
        command = [sys.executable, "-m", "benchmarks.fault_parts.soak", str(SOAK_MINUTES)]
        ended = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
        figures: dict[str, Any] = json.loads(ended.stdout.strip().splitlines()[-1])
        return figures

    [row] = Rows(folder, "soak").measure([("soak", measured)])
    return {key: value for key, value in row.items() if key.startswith("soak_")}


def later(module: str, function: str) -> Part:
    """A part whose module is loaded when it is asked for."""

    def part(folder: Path) -> dict[str, Any]:
        found = importlib.import_module(f"benchmarks.fault_parts.{module}")
        measured: dict[str, Any] = getattr(found, function)(folder)
        return measured

    return part


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
PARTS: dict[str, Part] = {
    "bad-inputs": later("inputs", "bad_inputs"),
    "models": matrix,
    "damaged": later("damaged", "damaged"),
    "secrets": secrets,
    "faults": later("injected", "faults"),
    "signals": later("pressed", "signals"),
    "digests": later("digests", "digest_share"),
    "soak": soak,
}
HEADLINES = (
    *("tracebacks", "wrong_in_silence", "faults_lost", "secrets_found", "soak_memory_growth"),
    *("soak_lost", "ctrl_c_seconds", "digest_share"),
)


def headline(found: dict[str, Any]) -> dict[str, Any]:
    """The figures of the issue, from those of the parts."""
    told: dict[str, Any] = dict.fromkeys(HEADLINES)
    if "bad_inputs" in found or "damaged" in found:
        refused = sum(found.get("bad_inputs_not_refused", {}).values())
        told["tracebacks"] = refused + len(found.get("damaged_tracebacks", []))
    if "damaged" in found or "models_silent" in found:
        unseen = {*found.get("damaged_silent", []), *found.get("damaged_unseen_by_verify", [])}
        told["wrong_in_silence"] = len(unseen) + found.get("models_silent", 0)
    return {**told, **found}


def main() -> None:
    parser = argparse.ArgumentParser(description="Inject faults and count what they cost.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    cache = Path(platformdirs.user_cache_dir("rnr_dist")) / "benchmarks" / "faults"
    parser.add_argument("--folder", type=Path, default=cache, help=f"of the rows ({cache})")
    given = parser.parse_args()
    if unknown := set(given.parts) - set(PARTS):
        parser.error(f"found {', '.join(sorted(unknown))}; expected some of {', '.join(PARTS)}")
    folder = given.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    # What a part has started, and mounted, ends with it when the benchmark is told to end.
    signal.signal(signal.SIGTERM, lambda *told: sys.exit(143))
    found: dict[str, Any] = {}
    for name, part in PARTS.items():
        if name in (given.parts or PARTS):
            found |= part(folder)
    print(json.dumps(headline(found)))


if __name__ == "__main__":
    main()
