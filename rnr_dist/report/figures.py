"""The report's figures of steps and of the search for instructions, as PNG files.

In: rows of a summary, pulls. Out: one picture each. Invariant: every curve shows measured points
with their 95 % intervals where there are any, and is told apart by its marker as well as its
colour.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate, groupby
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import Formatter, MaxNLocator

from rnr_dist.measures.measure import Measure, Measures, Role
from rnr_dist.report.summary import SummaryRow
from rnr_dist.run.directory import replacing

# Okabe and Ito's colours, told apart by every kind of colour vision.
VERMILION, BLUE, GREEN, GREY = "#d55e00", "#0072b2", "#009e73", "#777777"
KEPT = ((BLUE, "s"), (GREEN, "^"), ("#cc79a7", "D"), ("#e69f00", "v"), ("#56b4e9", "P"))


# Names of rows and titles of measures are texts: a `$` in one begins no formula.
rcParams["text.parse_math"] = False


class Percent(Formatter):
    """Shares as percentages, all of an axis with as many decimals as tell each of them exactly."""

    MOST_DECIMALS = 4

    def __call__(self, share: float, place: int | None = None) -> str:
        return self.format_ticks([share])[0]

    def format_ticks(self, values: Sequence[float]) -> list[str]:
        decimals = next(
            (n for n in range(self.MOST_DECIMALS) if _same(values, np.round(values, n + 2))),
            self.MOST_DECIMALS,
        )
        return [f"{100 * share:,.{decimals}f}%".replace("-", "−") for share in values]


def _same(one: Any, other: Any) -> bool:
    return np.allclose(one, other, rtol=0, atol=1e-9)


DOTS_PER_INCH = 150
PATH = ("reference", "step")  # kinds of rows that the recipe passes through


def steps_figure(
    rows: Sequence[SummaryRow], measures: Measures, reference: str, path: Path
) -> None:
    """Forgetting and utility along the recipe's steps, relative to the row `reference` (after the
    paper's Figure 3).

    Rows through which the recipe does not pass stand apart on the right with error bars.
    """
    passed = [row for row in rows if row.kind in PATH]
    apart = [row for row in rows if row.kind not in PATH]
    names = [row.label for row in (*passed, *apart)]
    figure = Figure(
        figsize=(max(7.0, 1.6 + 1.1 * len(names)), 6.4), layout="constrained", dpi=DOTS_PER_INCH
    )
    upper, lower = figure.subplots(2, 1, sharex=True)
    upper.set_title("Forgotten: lower is better", loc="left", fontsize=11)
    _draw_relative(upper, (passed, apart), [(measures.target, VERMILION, "o")])
    lower.set_title("Kept: should stay near 100%", loc="left", fontsize=11)
    shown = [
        (measure, *KEPT[place % len(KEPT)])
        for place, measure in enumerate(measures.of(Role.UTILITY))
    ]
    _draw_relative(lower, (passed, apart), shown)
    for axes in (upper, lower):
        axes.set_ylabel(f"relative to {reference} (95% interval)")
    upper.set_ylim(bottom=0)
    lower.set_xticks(range(len(names)), [name.replace(" ", "\n") for name in names])
    lower.set_xlim(-0.5, len(names) - 0.5)
    lower.set_xlabel("steps, in order" + (" | other models" if apart else ""))
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


def target_label(target: Measure) -> str:
    """What an axis of forget scores is called."""
    return f"forget score ({target.title})"


def format_axes(axes: Axes, target: Measure) -> None:
    """Axes of forget scores and of utilities."""
    axes.set_xlabel(target_label(target))
    axes.set_ylabel("utility (share of the base's)")
    if target.unit == "share":
        axes.xaxis.set_major_formatter(Percent())
    axes.yaxis.set_major_formatter(Percent())
    axes.grid(alpha=0.25)


def save(figure: Figure, path: Path) -> None:
    with replacing(path) as aside:
        figure.savefig(aside, format="png")


def _draw_relative(
    axes: Axes,
    rows: tuple[Sequence[SummaryRow], Sequence[SummaryRow]],
    measures: Sequence[tuple[Measure, str, str]],
) -> None:
    """Lines of the rows that are passed through, error bars of the others.

    measures: each with its colour and marker.
    """
    passed, apart = rows
    axes.axhline(1, color=GREY, linewidth=1, linestyle=":")
    for index, (measure, colour, marker) in enumerate(measures):
        shift = 0.08 * (index - (len(measures) - 1) / 2)  # so that error bars do not coincide
        values, below, above = _relative(passed, measure.name)
        x = np.arange(len(passed))
        axes.plot(x, values, color=colour, marker=marker, label=measure.title)
        axes.fill_between(x, below, above, color=colour, alpha=0.18, linewidth=0)
        values, below, above = _relative(apart, measure.name)
        axes.errorbar(
            len(passed) + np.arange(len(apart)) + shift,
            values,
            np.clip([values - below, above - values], 0, None),
            color=colour,
            marker=marker,
            markerfacecolor="white",
            linestyle="",
            capsize=3,
        )
    if apart:
        axes.axvline(len(passed) - 0.5, color=GREY, linewidth=0.8)
    axes.yaxis.set_major_formatter(Percent())
    axes.grid(axis="y", alpha=0.25)
    axes.legend(fontsize=9)


def _relative(
    rows: Sequence[SummaryRow], measure: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(R,) ratios to the reference and both ends of their intervals; the reference is 1."""
    found = []
    for row in rows:
        score = row.scores.get(measure)
        if row.kind == "reference":
            found.append((1.0,) * 3)
        elif score is None or score.ratio is None or score.ratio_ci95 is None:
            found.append((np.nan,) * 3)
        else:
            found.append((score.ratio, *score.ratio_ci95))
    values, below, above = np.array(found, float).reshape(-1, 3).T
    return values, below, above
