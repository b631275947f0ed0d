"""Whether what tasks count is right, and what checking it costs.

    python benchmarks/tasks.py               all parts
    python benchmarks/tasks.py throughput    some of them
    python benchmarks/tasks.py --folder FOLDER    where parts may keep what they make

The last line of the output is one JSON object; a figure that a part would bring which was not asked
for is null. Aims: `checks_per_second` at least 40 on two cores, `hostile_contained` 1,
`canonical_pass` at least .99. MBPP is read from RNR_DATA_DIR/mbpp/mbpp.jsonl where that is set.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import platformdirs

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

Part = Callable[[Path], dict[str, Any]]


def later(module: str, function: str) -> Part:
    """A part whose module is loaded when it is asked for."""

    def part(folder: Path) -> dict[str, Any]:
        found = importlib.import_module(f"benchmarks.task_parts.{module}")
        measured: dict[str, Any] = getattr(found, function)(folder)
        return measured

    return part


PARTS: dict[str, Part] = {
    "entities": later("entities", "published"),
    "throughput": later("sandbox", "throughput"),
    "hostile": later("sandbox", "hostile"),
    "canonical": later("coding", "canonical"),
    "verdicts": later("coding", "verdicts"),
}
HEADLINES = ("checks_per_second", "hostile_contained", "canonical_pass", "ner_f1_error")


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what tasks count.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    cache = Path(platformdirs.user_cache_dir("rnr_dist")) / "benchmarks" / "tasks"
    parser.add_argument("--folder", type=Path, default=cache, help=f"of what is made ({cache})")
    given = parser.parse_args()
    if unknown := set(given.parts) - set(PARTS):
        parser.error(f"found {', '.join(sorted(unknown))}; expected some of {', '.join(PARTS)}")
    folder = given.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = dict.fromkeys(HEADLINES)
    for name, part in PARTS.items():
        if name in (given.parts or PARTS):
            found |= part(folder)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
