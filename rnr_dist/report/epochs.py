"""Curves by epoch: what is recalled, and how many sequences are left."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from rnr_dist.report.figures import DOTS_PER_INCH, GREY, PERCENT, save

MARKERS = "osv^DPX"


def epochs_figure(
    curves: Mapping[str, Sequence[Mapping[str, Any]]], limits: Mapping[str, float], path: Path
) -> None:
    """EL_n and MA of each method by epoch, as `stopping` reads them, and ICU's forgotten."""
    figure = Figure(figsize=(10.5, 4.2), layout="constrained", dpi=DOTS_PER_INCH)
    panels = figure.subplots(1, 3)
    titles = ("Extraction likelihood", "Memorisation accuracy", "Sequences that left")
    for axes, title in zip(panels, titles, strict=True):
        axes.set_title(title, loc="left", fontsize=11)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(axis="y", alpha=0.25)
    for axes, key in zip(panels[:2], ("extraction", "memorisation"), strict=True):
        axes.axhline(limits[key], color=GREY, linestyle=":", label="limit")
        axes.yaxis.set_major_formatter(PERCENT)
        axes.set_ylim(-0.03, 1.03)
    for place, (name, rows) in enumerate(curves.items()):
        epochs = [row["epoch"] for row in rows]
        shared = {"marker": MARKERS[place % len(MARKERS)], "label": name, "markersize": 5}
        # Where EL was not read it is no number: no point, and no line that would claim one.
        for axes, key in zip(panels[:2], ("extraction", "memorisation"), strict=True):
            axes.plot(epochs, [row[key] for row in rows], **shared)
        if name == "icu":
            panels[2].plot(epochs, [row["forgotten"] for row in rows], **shared)
            for measure in rows[0]["left_by"]:
                panels[2].plot(
                    epochs,
                    [row["left_by"].get(measure, math.nan) for row in rows],
                    linestyle="--",
                    marker=".",  # one epoch alone is no line
                    label=f"{measure} is low",
                )
    panels[2].yaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in panels:  # below the axes, where no curve is
        axes.legend(fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.14))
    save(figure, path)
