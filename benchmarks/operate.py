"""What operating a run costs beside the work itself.

    python benchmarks/operate.py             all parts
    python benchmarks/operate.py memory      some of them
    python benchmarks/operate.py --folder FOLDER    where parts may keep rows

The last line of the output is one JSON object; a figure that a part would bring which was not asked
for is null. Aims: `head_ms_per_pull` at most 4, `efficiency_256` at least .97,
`memory_estimate_error` at most .15, `tracking_overhead` at most .02.
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
        found = importlib.import_module(f"benchmarks.operate_parts.{module}")
        measured: dict[str, Any] = getattr(found, function)(folder)
        return measured

    return part


PARTS: dict[str, Part] = {
    "head": later("head", "head"),
    "memory": later("memory", "measure"),
    "tracking": later("tracking", "tracking"),
}
HEADLINES = ("efficiency_256", "head_ms_per_pull", "memory_estimate_error", "tracking_overhead")


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what operating a run costs.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    cache = Path(platformdirs.user_cache_dir("rnr_dist")) / "benchmarks" / "operate"
    parser.add_argument("--folder", type=Path, default=cache, help=f"of the rows ({cache})")
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
