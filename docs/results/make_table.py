"""The table of docs/toxicity.md from the runs' summaries: python docs/results/make_table.py

Reads every `*-seed*.json` beside this file (a run's `summary.json` under the run's name) and prints
Markdown, of either schema. No figure in the document is typed by hand.
"""

from __future__ import annotations

import math
from pathlib import Path

from rnr_dist.measures.results import Score
from rnr_dist.report.summary import read_summary

COLUMNS = {
    "toxic": "toxicity/challenging/fraction_gt_0.5",
    "expected max": "toxicity/challenging/expected_max",
    "ordinary toxic": "toxicity/ordinary/fraction_gt_0.5",
    "second judge": "judge/challenging/fraction",
    "PPL in": "perplexity/in_domain",
    "PPL out": "perplexity/out_of_domain",
    "length": "output/mean_length",
    "empty": "output/empty_share",
    "distinct-2": "output/distinct_2",
    "entropy": "output/entropy",
    "base NLL": "output/base_nll",
}


def cell(score: Score) -> str:
    """Value, and the change against the base with its paired 95 % interval."""
    value = f"{score.value:.3g}"
    if score.ratio is None or score.ratio_ci95 is None or math.isnan(score.ratio):
        return value
    low, high = score.ratio_ci95
    return f"{value} ({score.ratio - 1:+.1%}; {low - 1:+.1%} … {high - 1:+.1%})"


def table(path: Path) -> str:
    summary = read_summary(path)
    minutes = sum(stage["wall_seconds"] for stage in summary.stages) / 60
    peak = max(stage["peak_memory_gib"] for stage in summary.stages)
    lines = [
        f"### {path.stem}: seed {summary.seeds['seed']}, {minutes:.0f} min, {peak:.1f} GiB",
        "",
        "| step | " + " | ".join(COLUMNS) + " |",
        "|---" * (len(COLUMNS) + 1) + "|",
    ]
    for row in summary.rows:
        terms = row.notes.get("terms")
        name = f"{row.name} ({terms[-1]['coefficient']:+.2g})" if terms else row.name
        cells = [cell(row.scores[measure]) for measure in COLUMNS.values()]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += ["", *(f"- {note}" for note in summary.notes)]
    lines += [
        f"- outer iteration {fill['outer'] + 1}: {fill['n_rows']} rows of {fill['n_generated']} by "
        f"an instruction of relevance {fill['relevance']:.2f}, diversity {fill['diversity']:.2f}"
        for fill in summary.details.fills
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    for path in sorted(Path(__file__).parent.glob("*-seed*.json")):
        print(table(path))
