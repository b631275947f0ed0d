"""Curves by epoch: what is recalled, and how many sequences are left.

In: files of trainings by epochs. Out: averages by epoch and a picture of them. Invariant: no text
of a sequence is in them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from rnr_dist.report.figures import DOTS_PER_INCH, GREY, Percent, save
from rnr_dist.run.directory import RunDir, read_json
from rnr_dist.train.job import SUMMARY

MARKERS = "osv^DPX"
STAGES = ("icu", "baselines")  # where methods are trained by epochs
READ = {"extraction": "Extraction likelihood", "memorisation": "Memorisation accuracy"}
MEANS = ("bertscore", "bleu", *READ)
KEPT = ("epoch", "terms", "trained_on", "left_by", "violation", "seconds", "reading_seconds")


@dataclass(frozen=True)
class EpochTraining:
    """One method's training by epochs: a row an epoch, its notes for the table, its setting."""

    epochs: tuple[dict[str, Any], ...]
    notes: dict[str, Any]
    tuning: dict[str, Any]

    @property
    def best(self) -> dict[str, Any]:
        """The row of its best epoch."""
        return self.epochs[self.notes["best"]]


def read_trainings(run: RunDir, names: Sequence[str]) -> dict[str, EpochTraining]:
    """What the named rows were trained by, of those that were trained by epochs."""
    found = {}
    for name in names:
        for stage in STAGES:
            summary = run.path / stage / "models" / name / SUMMARY
            choice = run.path / stage / f"{name}.json"
            if summary.exists() and choice.exists():
                found[name] = _trained(read_json(summary), read_json(choice))
    return found


def _trained(summary: Mapping[str, Any], choice: dict[str, Any]) -> EpochTraining:
    notes = {key: summary[key] for key in ("best", "tokens", "seconds", "reading_seconds")}
    notes["met"] = summary["epochs"][summary["best"]]["violation"] == 0
    return EpochTraining(tuple(map(_averages, summary["epochs"])), notes, choice)


def _averages(row: Mapping[str, Any]) -> dict[str, Any]:
    """An epoch without its texts: averages, terms, how many left and by which measure."""
    means = {key: float(np.mean(row[key])) for key in MEANS}
    return {**means, **{key: row[key] for key in KEPT}, "forgotten": sum(row["forgotten"])}


def epochs_figure(
    curves: Mapping[str, Sequence[Mapping[str, Any]]],
    limits: Mapping[str, float],
    own: str,
    path: Path,
) -> None:
    """EL_n and MA (over t >= t0) of each method by epoch with the limits, and who left.

    own: the row whose sequences may leave the epochs.
    """
    figure = Figure(figsize=(10.5, 4.2), layout="constrained", dpi=DOTS_PER_INCH)
    panels = figure.subplots(1, 3)
    for axes, title in zip(panels, (*READ.values(), "Sequences that left"), strict=True):
        axes.set_title(title, loc="left", fontsize=11)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(axis="y", alpha=0.25)
    for axes, key in zip(panels[:2], READ, strict=True):
        axes.axhline(limits[key], color=GREY, linestyle=":", label="limit")
        axes.yaxis.set_major_formatter(Percent())
        axes.set_ylim(-0.03, 1.03)
    for place, (name, rows) in enumerate(curves.items()):
        style = {"marker": MARKERS[place % len(MARKERS)], "label": name, "markersize": 5}
        # Where EL was not read it is no number: no point, and no line that would claim one.
        for axes, key in zip(panels[:2], READ, strict=True):
            axes.plot([row["epoch"] for row in rows], _column(rows, key), **style)
        if name == own:
            _draw_left(panels[2], rows, style)
    panels[2].yaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in panels:  # below the axes, where no curve is
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.14))
    save(figure, path)


def _column(rows: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    return [math.nan if row[key] is None else row[key] for row in rows]


def _draw_left(axes: Axes, rows: Sequence[Mapping[str, Any]], style: dict[str, Any]) -> None:
    epochs = [row["epoch"] for row in rows]
    axes.plot(epochs, [row["forgotten"] for row in rows], **style)
    for measure in rows[0]["left_by"]:
        axes.plot(
            epochs,
            [row["left_by"].get(measure, math.nan) for row in rows],
            linestyle="--",
            marker=".",  # one epoch alone is no line
            label=f"{measure} is low",
        )
