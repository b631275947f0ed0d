"""The table of instructions that a search evaluated, best first, as a CSV file.

Invariant: one row a pull; an instruction read again on fresh contexts also shows that score; no
cell is a formula to a spreadsheet.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from rnr_dist.run.directory import replacing
from rnr_dist.run.shown import cell
from rnr_dist.types import Pull

COLUMNS = ("instruction", "outer", "score", "relevance", "diversity", "fresh_score", "n_samples")


def write_instructions(pulls: Sequence[Pull], rechecks: Sequence[Pull], folder: Path) -> Path:
    """Write `instructions.csv`; scores are those of the time of the evaluation."""
    fresh = {pull.instruction: pull.score for pull in rechecks}
    path = folder / "instructions.csv"
    with replacing(path) as aside, aside.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(COLUMNS)
        for pull in sorted(pulls, key=lambda pull: -pull.score):
            again = fresh.get(pull.instruction)
            writer.writerow(
                [
                    cell(pull.instruction),
                    pull.outer + 1,
                    f"{pull.score:.4f}",
                    f"{pull.relevance:.4f}",
                    f"{pull.vendi:.4f}",
                    "" if again is None else f"{again:.4f}",
                    pull.n_samples,
                ]
            )
    return path
