"""What needs a GPU, and nothing from a network: speed, memory and equal results of rnr_dist on one.

    python benchmarks/gpu.py                    all parts, each in a process of its own
    python benchmarks/gpu.py lora exchange      some of them
    python benchmarks/gpu.py --shrink           the same functions on a CPU, with tiny models

The last line of the output is one JSON object: a part's figures under its name, and under `skipped`
why a part did not run. Exit code 1 where a part failed, 2 where there is no GPU.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.gpu_parts.place import Place, Skipped  # noqa: E402
from benchmarks.parts import asked, later, parser_of  # noqa: E402

PARTS = {
    "demo": later("gpu_parts.demo", "demo"),
    "lora": later("gpu_parts.trainings", "lora"),
    "icu": later("gpu_parts.trainings", "icu"),
    "exchange": later("gpu_parts.engines", "exchange"),
    "greedy": later("gpu_parts.engines", "greedy"),
}
NO_GPU = "gpu: found no GPU that torch can use; expected one, or --shrink"


def apart(name: str, place: Place) -> dict[str, Any]:
    """`told` by a process of its own, which gives its memory back: what that prints last."""
    command = [sys.executable, __file__, name, "--here", "--folder", str(place.folder)]
    command += ["--shrink"] if place.shrink else []
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    lines = ended.stdout.strip().splitlines()
    if ended.returncode or not lines:
        return {name: {"failed": f"exit code {ended.returncode}"}}
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def merged(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The parts' figures as one object, with what was skipped at its end."""
    skipped = {name: why for one in found for name, why in one.get("skipped", {}).items()}
    figures = {name: value for one in found for name, value in one.items() if name != "skipped"}
    return {**figures, "skipped": skipped}


def main(words: Sequence[str] | None = None) -> int:
    parser = parser_of("Measure rnr_dist on a GPU.", PARTS)
    parser.add_argument("--shrink", action="store_true", help="tiny models on a CPU")
    parser.add_argument("--folder", type=Path, help="of models and runs (a temporary one)")
    parser.add_argument("--here", action="store_true", help="in this process")
    given = asked(parser, PARTS, words)
    if not (given.shrink or gpu_here()):
        print(NO_GPU, file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="rnr-gpu-") as temporary:
        place = Place((given.folder or Path(temporary)).absolute(), given.shrink)
        place.folder.mkdir(parents=True, exist_ok=True)
        found = merged([(told if given.here else apart)(name, place) for name in given.parts])
    print(json.dumps(found))
    return int(any("failed" in value for value in found.values()))


def told(name: str, place: Place) -> dict[str, Any]:
    """What a part came to, under its name; or why it was skipped."""
    try:
        return {name: PARTS[name](place)}
    except Skipped as error:
        return {"skipped": {name: str(error)}}


def gpu_here() -> bool:
    import torch

    return torch.cuda.is_available()


if __name__ == "__main__":
    sys.exit(main())
