"""What operating a run costs beside the work itself.

    python benchmarks/operate.py             all parts
    python benchmarks/operate.py memory      some of them
    python benchmarks/operate.py --folder FOLDER    where parts may keep rows

The last line of the output is one JSON object; a figure that a part would bring which was not asked
for is null. Aims: `head_ms_per_pull` at most 4, `efficiency_256` at least .97,
`memory_estimate_error` at most .15, `tracking_overhead` at most .02.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.parts import Benchmark, later  # noqa: E402

PARTS = {
    "head": later("operate_parts.head", "head"),
    "memory": later("operate_parts.memory", "measure"),
    "tracking": later("operate_parts.tracking", "tracking"),
}
HEADLINES = ("efficiency_256", "head_ms_per_pull", "memory_estimate_error", "tracking_overhead")
BENCHMARK = Benchmark(
    name="operate",
    description="Measure what operating a run costs.",
    folder_of="the rows",
    parts=PARTS,
    headlines=HEADLINES,
)


if __name__ == "__main__":
    BENCHMARK.main()
