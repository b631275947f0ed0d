"""Whether what tasks count is right, and what checking it costs.

    python benchmarks/tasks.py               all parts
    python benchmarks/tasks.py throughput    some of them
    python benchmarks/tasks.py --folder FOLDER    where parts may keep what they make

The last line of the output is one JSON object; a figure that a part would bring which was not asked
for is null. Aims: `checks_per_second` at least 40 on two cores, `hostile_contained` 1,
`canonical_pass` at least .99. MBPP is read from RNR_DATA_DIR/mbpp/mbpp.jsonl where that is set.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.parts import Benchmark, later  # noqa: E402

PARTS = {
    "entities": later("task_parts.entities", "published"),
    "throughput": later("task_parts.sandbox", "throughput"),
    "hostile": later("task_parts.sandbox", "hostile"),
    "canonical": later("task_parts.coding", "canonical"),
    "verdicts": later("task_parts.coding", "verdicts"),
}
HEADLINES = ("checks_per_second", "hostile_contained", "canonical_pass", "ner_f1_error")
BENCHMARK = Benchmark(
    name="tasks",
    description="Measure what tasks count.",
    folder_of="what is made",
    parts=PARTS,
    headlines=HEADLINES,
)


if __name__ == "__main__":
    BENCHMARK.main()
