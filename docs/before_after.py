"""Draws `before_after.png`, the README's picture: python docs/before_after.py

In: one stored comparison, `results/toxicity_table/seed-0.json`, with its rows of samples. Out: the
picture. Invariant: no continuation is chosen by what the result says. The openings are those from
which the base is toxic most often, and both continuations of an opening have the same number.
"""

from __future__ import annotations

import re
import textwrap
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
from better_profanity import Profanity
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rnr_dist.measures.results import Score
from rnr_dist.report.figures import BLUE, DOTS_PER_INCH, GREY, VERMILION, Percent, save
from rnr_dist.report.summary import read_summary

HERE = Path(__file__).parent
STORED = HERE / "results" / "toxicity_table" / "seed-0.json"
MODELS = {"base": ("before", VERMILION), "R&R": ("after", BLUE)}
TARGET = "toxicity/challenging/fraction_gt_0.5"
PERPLEXITY = {
    "perplexity/in_domain": "text of the kind that was retained",
    "perplexity/out_of_domain": "text of other kinds",
}
OPENINGS = 3
TOXIC_ABOVE = 0.5  # the stored config's task.toxic_above
INK = "#222222"


def draw(path: Path) -> None:
    rows = {row.name: row.scores for row in read_summary(STORED).rows}
    figure = Figure(figsize=(10.5, 5.6), layout="constrained", dpi=DOTS_PER_INCH)
    places = figure.subplot_mosaic(
        [["target", "kept"], ["said", "said"]], width_ratios=[1, 2], height_ratios=[1, 0.95]
    )
    target, kept = places["target"], places["kept"]
    target.set_title("Forgotten: continuations that are toxic", loc="left", fontsize=11)
    _bars(target, 0, {name: rows[name][TARGET] for name in MODELS}, "{:.0%}")
    target.yaxis.set_major_formatter(Percent())
    target.set_xticks([])
    kept.set_title("Kept: perplexity of running text (lower is better)", loc="left", fontsize=11)
    for place, measure in enumerate(PERPLEXITY):
        _bars(kept, place, {name: rows[name][measure] for name in MODELS}, "{:.1f}")
    kept.set_xticks(range(len(PERPLEXITY)), list(PERPLEXITY.values()))
    for axes in (target, kept):
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_ylim(0, 1.15 * axes.get_ylim()[1])  # room above for values and the legend
    target.legend(loc="upper right", frameon=False)
    _said(places["said"])
    save(figure, path)


def _bars(axes: Axes, place: int, scores: dict[str, Score], style: str) -> None:
    """Before and after side by side, with their 95 % intervals."""
    for shift, (name, (label, colour)) in zip((-0.19, 0.19), MODELS.items(), strict=True):
        score = scores[name]
        ends = [[score.value - score.ci95[0]], [score.ci95[1] - score.value]]
        axes.bar(
            place + shift,
            score.value,
            0.36,
            color=colour,
            alpha=0.85,
            label=label,
            yerr=ends,
            ecolor=GREY,
            capsize=4,
        )
        axes.text(
            place + shift,
            score.ci95[1],
            style.format(score.value),
            ha="center",
            va="bottom",
            color=INK,
        )


def _said(axes: Axes) -> None:
    """Openings, and how both models go on."""
    axes.axis("off")
    axes.set_title("The same openings, continued", loc="left", fontsize=11)
    before, after = (_samples(name) for name in ("base", "RnR"))
    toxic = Counter(key[0] for key, one in before.items() if one["score"] > TOXIC_ABOVE)
    columns = ((0.0, INK, 40), (0.35, VERMILION, 38), (0.69, BLUE, 38))
    for (x, colour, _), title in zip(columns, ("opening", "before", "after"), strict=True):
        axes.text(x, 0.98, title, color=colour, fontsize=10, weight="bold", va="top")
    for line, (context, _) in enumerate(toxic.most_common(OPENINGS)):
        chosen = max((k for k in before if k[0] == context), key=lambda key: before[key]["score"])
        texts = (before[chosen]["prompt"], before[chosen]["text"], after[chosen]["text"])
        for (x, colour, width), text in zip(columns, texts, strict=True):
            shown = textwrap.fill(_masked(" ".join(text.split())), width)
            axes.text(x, 0.84 - 0.31 * line, shown, color=colour, fontsize=9, va="top")


def _samples(name: str) -> dict[tuple[str, int], dict]:
    """Continuations of challenging openings by context and number."""
    table = pq.read_table(STORED.with_suffix("") / f"{name}.parquet")
    rows = [row for row in table.to_pylist() if row["group"] == "challenging"]
    return {(row["context_id"], row["index"]): row for row in rows}


def _masked(text: str) -> str:
    """Listed words as their first letter and asterisks."""
    words = sorted({str(word) for word in Profanity().CENSOR_WORDSET}, key=len, reverse=True)
    listed = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, words))})(?!\w)", re.IGNORECASE)
    return listed.sub(lambda found: found[0][0] + "*" * (len(found[0]) - 1), text)


if __name__ == "__main__":
    draw(HERE / "before_after.png")
