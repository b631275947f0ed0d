"""Scores of what was forgotten and of what was kept, step by step (the paper's Figures 3 and 4).

In: rows of a summary. Out: one picture. Invariant: every point is a measured value with its 95 %
interval, as it is and not relative to another row's.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from rnr_dist.measures.measure import Measure, Measures
from rnr_dist.report.figures import DOTS_PER_INCH, KEPT, PATH, VERMILION, save
from rnr_dist.report.summary import SummaryRow

LEAST = 2  # measures beside the target that are worth a picture


def scored(measures: Measures) -> tuple[Measure, ...]:
    """The target and the other scores that tables show; nothing where the target is no score, or
    all but alone."""
    target = measures.target
    beside = [one for one in measures if one.table and one.unit == "score" and one is not target]
    return (target, *beside) if target.unit == "score" and len(beside) >= LEAST else ()


def scores_figure(rows: Sequence[SummaryRow], measures: Measures, path: Path) -> None:
    """A line a measure over the recipe's steps, the target's thick."""
    passed = [row for row in rows if row.kind in PATH]
    size = max(6.4, 1.8 + 1.1 * len(passed)), 4.8
    figure = Figure(figsize=size, layout="constrained", dpi=DOTS_PER_INCH)
    axes = figure.subplots()
    x = np.arange(len(passed))
    for place, measure in enumerate(scored(measures)):
        colour, marker = (VERMILION, "o") if not place else KEPT[(place - 1) % len(KEPT)]
        known = [row.scores.get(measure.name) for row in passed]
        values = [one.value if one else np.nan for one in known]
        low, high = zip(*(one.ci95 if one else (np.nan, np.nan) for one in known), strict=True)
        width = 1.5 if place else 3
        axes.plot(x, values, color=colour, marker=marker, linewidth=width, label=measure.title)
        axes.fill_between(x, low, high, color=colour, alpha=0.12, linewidth=0)
    axes.set_xticks(x, [row.label.replace(" ", "\n") for row in passed])
    axes.set_xlabel("steps, in order")
    axes.set_ylabel("score (95% interval)")
    axes.set_ylim(0, 1.02)
    axes.grid(axis="y", alpha=0.25)
    figure.legend(loc="outside lower center", ncols=3, fontsize=9)
    save(figure, path)
