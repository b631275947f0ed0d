"""The table of a study: every seed's row, and means over seeds with their 95 % intervals.

In: rows of finished runs. Out: `study.json` and the table on the terminal. Invariant: an interval
is over seeds (Student's t), never over the contexts of one; one seed has none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.table import Table
from scipy import stats

from rnr_dist.measures.measure import Measure, Role
from rnr_dist.measures.results import Results, Row
from rnr_dist.report.narrow import WholeTable
from rnr_dist.report.summary import strict
from rnr_dist.report.table import literal
from rnr_dist.run.codec import to_plain
from rnr_dist.run.directory import write_json
from rnr_dist.run.shown import shown, terminal

SHOWN = (Role.TARGET, Role.UTILITY)


@dataclass(frozen=True)
class StudyRow:
    """A row of one run's table, with the results that it stands in."""

    variant: str
    seed: int
    row: Row
    results: Results

    @property
    def label(self) -> str:
        """What it is compared under: a variant's result is named after the variant."""
        return f"{self.variant}: {self.row.name}" if self.variant else self.row.name

    def change(self, measure: Measure) -> float:
        """Ratio to the reference row less 1; nan where there is none."""
        score = self.results.scores[self.row.name].get(measure.name)
        return math.nan if score is None or score.ratio is None else score.ratio - 1


def mean_and_interval(values: Sequence[float]) -> tuple[float, tuple[float, float] | None]:
    """The mean and its 95 % interval by Student's t; None for fewer than two values."""
    known = np.array([value for value in values if not math.isnan(value)])
    if not len(known):
        return math.nan, None
    mean = float(known.mean())
    if len(known) < 2:
        return mean, None
    half = float(stats.t.ppf(0.975, len(known) - 1) * stats.sem(known))
    return mean, (mean - half, mean + half)


def study_table(rows: Sequence[StudyRow]) -> list[dict[str, Any]]:
    """One entry a label, in order: changes by measure, a seed and over seeds; dead candidates."""
    table = []
    for label in dict.fromkeys(row.label for row in rows):
        own = [row for row in rows if row.label == label]
        if all(row.row.name == row.results.reference for row in own):
            continue
        measures = {}
        for measure in own[0].results.measures:
            if measure.role in SHOWN:
                changes = [row.change(measure) for row in own]
                mean, bounds = mean_and_interval(changes)
                seeds = dict(zip([row.seed for row in own], changes, strict=True))
                measures[measure.name] = {
                    "title": measure.title,
                    "seeds": seeds,
                    "mean": mean,
                    "ci95": bounds,
                }
        notes = [row.row.notes for row in own]
        table.append(
            {
                "name": label,
                "kind": own[0].row.kind,
                "measures": measures,
                "candidates": [note.get("candidates") for note in notes],
                "dead": [note.get("dead") for note in notes],
            }
        )
    return table


def write_study(path: Path, name: str, rows: Sequence[StudyRow], notes: Sequence[str]) -> Path:
    """Write `path`, where null is no number, and print the table."""
    table = study_table(rows)
    write_json(path, strict(to_plain({"study": name, "rows": table, "notes": list(notes)})))
    console = terminal()
    console.print(_printed(name, table))
    for note in notes:
        console.print(literal(f"Note: {note}"))
    return path


def _printed(name: str, entries: Sequence[dict[str, Any]]) -> Table:
    table = WholeTable(
        title=shown(f"Study {name}: change against the reference"),
        caption="a line a seed, then the mean over seeds with its 95 % interval",
        box=box.HORIZONTALS,
        show_lines=True,
        collapse_padding=True,
    )
    table.add_column("model")
    titles = [measure["title"] for measure in entries[0]["measures"].values()] if entries else []
    for title in (*titles, "dead candidates"):
        table.add_column(shown(title), justify="right", overflow="fold")
    for entry in entries:
        cells = ["\n".join(_lines(measure)) for measure in entry["measures"].values()]
        dead = [
            "–" if lost is None else f"{lost} of {count}"
            for lost, count in zip(entry["dead"], entry["candidates"], strict=True)
        ]
        table.add_row(literal(entry["name"]), *cells, "\n".join(dead))
    return table


def _lines(measure: dict[str, Any]) -> list[str]:
    """Each seed's change, then the mean and its interval."""
    told = [f"seed {seed} {_percent(change)}" for seed, change in measure["seeds"].items()]
    mean = f"mean {_percent(measure['mean'])}"
    if measure["ci95"]:
        low, high = measure["ci95"]
        mean += f" ({_percent(low)}…{_percent(high)})"
    return [*told, mean]


def _percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:+.1%}".replace("-", "−")
