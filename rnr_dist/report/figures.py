"""The report's three figures, as PNG files.

In: steps, trials, pulls. Out: one picture each. Invariant: every curve shows measured points with
their 95 % intervals where there are any, and is told apart by its marker as well as its colour.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate, groupby
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from rnr_dist.report.summary import Step
from rnr_dist.run.directory import replacing

# Okabe and Ito's colours, told apart by every kind of colour vision.
VERMILION, BLUE, GREEN, GREY = "#d55e00", "#0072b2", "#009e73", "#777777"
# Measure (or how its name begins), label, colour, marker.
FORGOTTEN = (
    ("toxicity/challenging/fraction_gt_", "toxic continuations, challenging", VERMILION, "o"),
)
KEPT = (
    ("perplexity/in_domain", "perplexity, in domain", BLUE, "s"),
    ("perplexity/out_of_domain", "perplexity, out of domain", GREEN, "^"),
)
PERCENT = FuncFormatter(lambda share, _: f"{100 * share:.3g}%".replace("-", "−"))
DOTS_PER_INCH = 150
# Points: where a candidate's label may stand beside it, and half of what a label or point covers.
LABEL_SHIFTS = ((0, 12), (0, -12), (20, 0), (-20, 0), (16, 10), (-16, 10), (16, -10), (-16, -10))
LABEL_HALF = np.array([18.0, 10.0])


def steps_figure(steps: Sequence[Step], path: Path) -> None:
    """Forgetting and utility along Eq. 1, relative to the base (after the paper's Figure 3).

    Controls, through which Eq. 1 does not pass, stand apart on the right with error bars.
    """
    path_of_eq1 = [step for step in steps if not step.is_control]
    controls = [step for step in steps if step.is_control]
    names = [step.label for step in (*path_of_eq1, *controls)]
    figure = Figure(
        figsize=(max(7.0, 1.6 + 1.1 * len(names)), 6.4), layout="constrained", dpi=DOTS_PER_INCH
    )
    upper, lower = figure.subplots(2, 1, sharex=True)
    for axes, measures, title in (
        (upper, FORGOTTEN, "Forgotten: lower is better"),
        (lower, KEPT, "Kept: should stay near 100%"),
    ):
        axes.axhline(1, color=GREY, linewidth=1, linestyle=":")
        for index, (measure, label, colour, marker) in enumerate(measures):
            shift = 0.08 * (index - (len(measures) - 1) / 2)  # so that error bars do not coincide
            values, below, above = _relative(path_of_eq1, measure)
            x = np.arange(len(path_of_eq1))
            axes.plot(x, values, color=colour, marker=marker, label=label)
            axes.fill_between(x, below, above, color=colour, alpha=0.18, linewidth=0)
            values, below, above = _relative(controls, measure)
            axes.errorbar(
                len(path_of_eq1) + np.arange(len(controls)) + shift,
                values,
                np.clip([values - below, above - values], 0, None),
                color=colour,
                marker=marker,
                markerfacecolor="white",
                linestyle="",
                capsize=3,
            )
        if controls:
            axes.axvline(len(path_of_eq1) - 0.5, color=GREY, linewidth=0.8)
        axes.set_title(title, loc="left", fontsize=11)
        axes.set_ylabel("relative to the base (95% interval)")
        axes.yaxis.set_major_formatter(PERCENT)
        axes.grid(axis="y", alpha=0.25)
        axes.legend(fontsize=9)
    upper.set_ylim(bottom=0)
    lower.set_xticks(range(len(names)), [_wrapped(name) for name in names])
    lower.set_xlim(-0.5, len(names) - 0.5)
    lower.set_xlabel("steps of Eq. 1, in order" + (" | control" if controls else ""))
    save(figure, path)


def search_figure(trials: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Utility against forget score of every candidate, one panel a merge weight.

    `trials` are `summary.trial_rows`. A candidate without a forget score had lost on utility
    before it generated; it stands at the panel's right edge.
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
        _search_panel(axes, name, candidates)
    point: dict[str, Any] = {"linestyle": "", "markersize": 8}
    handles = [
        Line2D([], [], marker="o", color=BLUE, label="meets a rule", **point),
        Line2D(
            [], [], marker="o", color=BLUE, markerfacecolor="white", label="meets none", **point
        ),
        Line2D([], [], marker="s", color=BLUE, label="read again, fresh samples", **point),
        Line2D([], [], marker="*", color=VERMILION, label="chosen", linestyle="", markersize=14),
        Line2D([], [], marker="<", color=BLUE, label="not generated", **point),
        Line2D([], [], marker="D", color=GREY, label="before the step", **point),
        Line2D([], [], color=VERMILION, linestyle="--", label="rule 1 (left of it)"),
        Line2D([], [], color=GREY, linestyle=":", label="rule 2 (above it)"),
        Line2D([], [], color=GREEN, linestyle="--", label="least utility (above it)"),
    ]
    figure.legend(
        handles=handles,
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


def front_figure(points: Sequence[Mapping[str, Any]], path: Path) -> None:
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
        forget, kept = point["fresh"]
        if point["forget"] is not None:
            axes.plot(
                [point["forget"], forget], [point["utility"], kept], color=GREY, linewidth=0.8
            )
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
            point["candidate"].removeprefix("joint "),
            (forget, kept),
            xytext=(7, 6),
            textcoords="offset points",
            fontsize=9,
        )
    lost = [p for p in points if p["fresh"] is None and p["forget"] is None]
    for point in lost:
        axes.plot(
            0.98,
            point["utility"],
            "<",
            color=VERMILION if point["winner"] else BLUE,
            markersize=8,
            transform=axes.get_yaxis_transform(),
        )
        axes.annotate(
            point["candidate"].removeprefix("joint "),
            (0.98, point["utility"]),
            xycoords=axes.get_yaxis_transform(),
            xytext=(-9, -3),
            textcoords="offset points",
            horizontalalignment="right",
            fontsize=9,
        )
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
    axes.set_xlabel("forget score (toxic share of continuations)")
    axes.set_ylabel("utility (share of the base's)")
    axes.xaxis.set_major_formatter(PERCENT)
    axes.yaxis.set_major_formatter(PERCENT)
    axes.grid(alpha=0.25)
    figure.legend(loc="outside lower center", ncols=3, fontsize=9)
    save(figure, path)


def reveal_figure(pulls: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Score of every pull in the order of arrival, with the best so far, per outer iteration.

    `pulls` are `types.Pull` as JSON holds them.
    """
    panels = [
        (outer, list(group)) for outer, group in groupby(pulls, key=lambda pull: pull["outer"])
    ]
    figure = Figure(figsize=(1.4 + 3.4 * len(panels), 3.9), layout="constrained", dpi=DOTS_PER_INCH)
    grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (outer, found) in zip(grid, panels, strict=True):
        numbers, scores = range(1, len(found) + 1), [pull["score"] for pull in found]
        best = list(accumulate(scores, max))
        axes.plot(numbers, scores, "o", color=BLUE, alpha=0.55, label="pull")
        axes.step(numbers, best, where="post", color=VERMILION, linewidth=2, label="best so far")
        axes.set_title(f"outer iteration {outer + 1}", fontsize=11)
        axes.set_xlabel("pull")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.25)
    grid[0].set_ylabel("score (relevance and diversity)")
    grid[0].set_ylim(bottom=0)
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
    save(figure, path)


def _relative(steps: Sequence[Step], measure: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(S,) ratios to the base and both ends of their intervals; the base is 1 by definition."""
    rows = []
    for step in steps:
        score = step.find(measure)
        if score is None:
            rows.append((np.nan,) * 3)
        elif score.vs_base:
            rows.append((score.vs_base["ratio"], *score.vs_base["ci95"]))
        else:
            rows.append((1.0,) * 3)
    values, below, above = np.array(rows, float).reshape(-1, 3).T
    return values, below, above


def _search_panel(axes: Axes, name: str, candidates: Sequence[Mapping[str, Any]]) -> None:
    read = [trial for trial in candidates if trial["forget"] is not None]
    lost = [trial["utility"] for trial in candidates if trial["forget"] is None]
    limits = candidates[0]
    before = (limits["forget_before"], limits["utility_before"])
    for trial in read:
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
    axes.plot(*before, "D", color=GREY, markersize=8, zorder=2)
    right_edge = np.full(len(lost), 0.98)
    transform = axes.get_yaxis_transform()
    axes.plot(right_edge, lost, "<", color=BLUE, markersize=8, transform=transform)
    axes.axhline(limits["utility_limit"], color=GREEN, linestyle="--", linewidth=1.2)
    axes.margins(0.13)
    right, heights = axes.get_xlim()[1], axes.get_ylim()
    axes.set_xlim(-0.05 * right, right)
    axes.set_ylim(heights)
    if limits["forget_limit"] is not None:
        axes.axvline(limits["forget_limit"], color=VERMILION, linestyle="--", linewidth=1.2)
        # Rule 2 compares both falls as shares of the base.
        axes.axline(before, slope=1 / limits["forget_base"], color=GREY, linestyle=":")
    met = any(trial["rule"] for trial in candidates if trial["winner"])
    title = f"weight of {name.replace('-', '−')}"
    axes.set_title(title if met else f"{title}: no candidate met the rules", fontsize=11)
    axes.set_xlabel("forget score (toxic share of continuations)")
    axes.set_ylabel("utility (share of the base's)")
    axes.xaxis.set_major_formatter(PERCENT)
    axes.yaxis.set_major_formatter(PERCENT)
    for axis in (axes.xaxis, axes.yaxis):  # PERCENT has three digits: no quarters
        axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.grid(alpha=0.25)


def _label(axes: Axes, candidates: Sequence[Mapping[str, Any]]) -> None:
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


def _wrapped(name: str) -> str:
    return name.replace(" ", "\n")


def save(figure: Figure, path: Path) -> None:
    with replacing(path) as aside:
        figure.savefig(aside, format="png")
