"""Prints stored results as a run prints its own: python docs/results/tables.py FILE...

In: files beside this one that hold a run's summary or a comparison, of any schema. Out: the tables
of `rnr_dist.report` on the terminal. Invariant: columns are those that the task declares today;
what a file does not hold is left out.
"""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

from rich.console import Console

from rnr_dist.config.file import load_config
from rnr_dist.measures.measure import Measures
from rnr_dist.report.summary import Summary, read_summary
from rnr_dist.report.table import budget_table, instructions_table, measure_tables, print_notes
from rnr_dist.tasks.task import make_task

CONFIGS = Path(__file__).parents[2] / "configs"
# Files of schema 1 declare no measures: those of the same recipe on the built-in texts are theirs.
DECLARED_BY = {"reveal-and-release": "demo.yaml", "unlearn-sequences": "icu_table.yaml"}


def print_stored(path: Path, console: Console) -> None:
    """All tables of one file. Raises InputError where it holds no summary."""
    found = read_summary(path)
    measures = found.declared if found.measures else _declared_today(found.recipe)
    console.rule(f"{path.stem}, seed {found.seeds['seed']}{_cost(found)}")
    for table in measure_tables(found.rows, measures, found.reference, found.preset):
        console.print(table)
    if any(row.notes.get("candidates") is not None for row in found.rows):
        console.print(budget_table(found.rows, measures.target))
    if found.details.fills:
        console.print(instructions_table(found.details.fills))
    print_notes(found.notes, console)


@cache
def _declared_today(recipe: str) -> Measures:
    return make_task(load_config(CONFIGS / DECLARED_BY[recipe])).measures


def _cost(found: Summary) -> str:
    """How long the stages took, and the most memory that one took, where the file tells."""
    if not found.stages:
        return ""
    minutes = sum(stage["wall_seconds"] for stage in found.stages) / 60
    peak = max(stage["peak_memory_gib"] for stage in found.stages)
    return f", {minutes:.0f} min, {peak:.1f} GiB"


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print_stored(Path(name), Console())
