"""Figures of the search for merge weights: candidates of each weight, and the joint search's front.

In: rows of `release.candidates`, points of the joint search as JSON holds them. Out: one PNG each.
Invariant: limits are drawn where the rules' point estimates are; labels do not cover each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from rnr_dist.measures.measure import Measure
from rnr_dist.report.figures import BLUE, DOTS_PER_INCH, GREEN, GREY, VERMILION, format_axes, save

Rows = Sequence[Mapping[str, Any]]
# Points: where a candidate's label may stand beside it, and half of what a label or point covers.
LABEL_SHIFTS = ((0, 12), (0, -12), (20, 0), (-20, 0), (16, 10), (-16, 10), (16, -10), (-16, -10))
LABEL_HALF = np.array([18.0, 10.0])
RIGHT = 0.98  # share of the width at which stands what has no forget score


def search_figure(trials: Rows, target: Measure, path: Path) -> None:
    """Utility against forget score of every candidate, one panel a merge weight.

    A candidate without a forget score had lost on utility before it generated; it stands at the
    panel's right edge.
    """
    panels = [
        (name, list(group)) for name, group in groupby(trials, key=lambda trial: trial["step"])
    ]
    columns = min(3, len(panels))
    rows = ceil(len(panels) / columns)
    figure = Figure(
        figsize=(max(6.4, 4.6 * columns), 1.1 + 4.0 * rows), layout="constrained", dpi=DOTS_PER_INCH
    )
    grid = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    for axes, (name, candidates) in zip(grid, panels, strict=False):
        _draw_candidates(axes, candidates)
        _draw_limits(axes, candidates[0])
        met = any(trial["rule"] for trial in candidates if trial["winner"])
        title = f"weight of {name.replace('-', '−')}"
        axes.set_title(title if met else f"{title}: no candidate met the rules", fontsize=11)
        format_axes(axes, target)
        for axis in (axes.xaxis, axes.yaxis):  # percentages have three digits: no quarters
            axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    figure.legend(
        handles=_search_legend(),
        loc="outside lower center",
        ncols=5 if columns > 1 else 3,
        fontsize=9,
        title="Numbers are merge weights. Rules hold by bounds: a point just inside may fail.",
        title_fontsize=9,
    )
    figure.draw_without_rendering()  # settles where points lie, which labels must know
    for axes, (_, candidates) in zip(grid, panels, strict=False):
        _label(axes, candidates)
    save(figure, path)


def front_figure(points: Rows, target: Measure, path: Path) -> None:
    """Forgetting against utility of the joint search's points (`release.joint.Point` as JSON).

    Points that were read again stand where fresh samples put them, a thin line leads back to their
    first reading: its length is the luck that a ranking by first readings would have trusted.
    """
    figure = Figure(figsize=(7.2, 5.4), layout="constrained", dpi=DOTS_PER_INCH)
    axes = figure.subplots()
    once = [p for p in points if p["fresh"] is None and p["forget"] is not None]
    axes.plot(
        [p["forget"] for p in once],
        [p["utility"] for p in once],
        "o",
        color=GREY,
        label="read once",
    )
    again = [p for p in points if p["fresh"] is not None]
    for point in again:
        _draw_again(axes, point)
    lost = [p for p in points if p["fresh"] is None and p["forget"] is None]
    for point in lost:
        _draw_lost(axes, point)
    if lost:
        axes.plot([], [], "<", color=BLUE, label="lost on utility, not generated from")
    if len(lost) == len(points):
        axes.set_xticks([])  # there is no forget score to stand at
    heights = [p["utility"] for p in points] + [p["fresh"][1] for p in again]
    room = max(0.01, 0.1 * (max(heights) - min(heights)))
    axes.set_ylim(min(heights) - room, max(heights) + room)
    front = sorted(tuple(p["fresh"]) for p in again if p["front"])
    axes.plot(
        [forget for forget, _ in front],
        [kept for _, kept in front],
        "--",
        color=BLUE,
        label="front, on fresh samples",
        zorder=2,
    )
    axes.plot([], [], "s", color=BLUE, label="read again, fresh samples")
    axes.plot([], [], "s", color=BLUE, markerfacecolor="white", label="misses the rules")
    axes.plot([], [], "*", color=VERMILION, markersize=14, linestyle="", label="chosen")
    format_axes(axes, target)
    figure.legend(loc="outside lower center", ncols=3, fontsize=9)
    save(figure, path)


def _draw_again(axes: Axes, point: Mapping[str, Any]) -> None:
    forget, kept = point["fresh"]
    if point["forget"] is not None:
        axes.plot([point["forget"], forget], [point["utility"], kept], color=GREY, linewidth=0.8)
    axes.plot(
        forget,
        kept,
        "*" if point["winner"] else "s",
        color=VERMILION if point["winner"] else BLUE,
        markersize=16 if point["winner"] else 8,
        markerfacecolor=None if point["feasible"] else "white",
        zorder=4 if point["winner"] else 3,
    )
    axes.annotate(
        _short(point), (forget, kept), xytext=(7, 6), textcoords="offset points", fontsize=9
    )


def _draw_lost(axes: Axes, point: Mapping[str, Any]) -> None:
    edge = axes.get_yaxis_transform()
    colour = VERMILION if point["winner"] else BLUE
    axes.plot(RIGHT, point["utility"], "<", color=colour, markersize=8, transform=edge)
    axes.annotate(
        _short(point),
        (RIGHT, point["utility"]),
        xycoords=edge,
        xytext=(-9, -3),
        textcoords="offset points",
        horizontalalignment="right",
        fontsize=9,
    )


def _short(point: Mapping[str, Any]) -> str:
    return str(point["candidate"].removeprefix("joint "))


def _draw_candidates(axes: Axes, candidates: Rows) -> None:
    for trial in candidates:
        if trial["forget"] is None:
            continue
        winner = trial["winner"]
        colour = VERMILION if winner else BLUE
        axes.plot(
            trial["forget"],
            trial["utility"],
            "*" if winner else "s" if trial["draw"] else "o",
            color=colour,
            markersize=15 if winner else 8,
            markerfacecolor=colour if trial["rule"] else "white",
            zorder=4 if winner else 3,
        )
    before = (candidates[0]["forget_before"], candidates[0]["utility_before"])
    axes.plot(*before, "D", color=GREY, markersize=8, zorder=2)
    lost = [trial["utility"] for trial in candidates if trial["forget"] is None]
    edge = axes.get_yaxis_transform()
    axes.plot(np.full(len(lost), RIGHT), lost, "<", color=BLUE, markersize=8, transform=edge)


def _draw_limits(axes: Axes, limits: Mapping[str, Any]) -> None:
    """What the rules compare to, without moving the axes to it."""
    if limits["utility_limit"] is not None:
        axes.axhline(limits["utility_limit"], color=GREEN, linestyle="--", linewidth=1.2)
    axes.margins(0.13)
    right, heights = axes.get_xlim()[1], axes.get_ylim()
    axes.set_xlim(-0.05 * right, right)
    axes.set_ylim(heights)
    if limits["forget_limit"] is not None:
        axes.axvline(limits["forget_limit"], color=VERMILION, linestyle="--", linewidth=1.2)
        # Rule 2 compares both falls as shares of the base.
        before = (limits["forget_before"], limits["utility_before"])
        axes.axline(before, slope=1 / limits["forget_base"], color=GREY, linestyle=":")


def _search_legend() -> list[Line2D]:
    blue: dict[str, Any] = {"color": BLUE, "linestyle": "", "markersize": 8}
    return [
        Line2D([], [], marker="o", label="meets a rule", **blue),
        Line2D([], [], marker="o", markerfacecolor="white", label="meets none", **blue),
        Line2D([], [], marker="s", label="read again, fresh samples", **blue),
        Line2D([], [], marker="*", color=VERMILION, label="chosen", linestyle="", markersize=14),
        Line2D([], [], marker="<", label="not generated", **blue),
        Line2D([], [], marker="D", label="before the step", **{**blue, "color": GREY}),
        Line2D([], [], color=VERMILION, linestyle="--", label="rule 1 (left of it)"),
        Line2D([], [], color=GREY, linestyle=":", label="rule 2 (above it)"),
        Line2D([], [], color=GREEN, linestyle="--", label="least utility (above it)"),
    ]


def _label(axes: Axes, candidates: Rows) -> None:
    """Weights beside their points, the winner's first, wherever they do not collide."""
    scale = axes.figure.dpi / 72  # points to pixels
    points = {
        trial["coefficient"]: (trial["forget"], trial["utility"])  # of its last reading
        for trial in candidates
        if trial["forget"] is not None
    }
    winners = {trial["coefficient"] for trial in candidates if trial["winner"]}
    before = (candidates[0]["forget_before"], candidates[0]["utility_before"])
    taken = [axes.transData.transform(point) for point in (*points.values(), before)]
    for weight in sorted(points, key=lambda weight: weight not in winners):
        for shift in LABEL_SHIFTS:
            centre = axes.transData.transform(points[weight]) + scale * np.array(shift)
            if all((np.abs(centre - other) > scale * LABEL_HALF).any() for other in taken):
                taken.append(centre)
                axes.annotate(
                    f"{weight:.3g}",
                    points[weight],
                    xytext=shift,
                    textcoords="offset points",
                    ha="center",
                    va="center",
                    fontsize=9,
                    bbox={"boxstyle": "square,pad=0.05", "color": "white", "alpha": 0.8},
                )
                break
