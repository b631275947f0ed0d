"""R&R and the methods beside it in one table: the same contexts, paired differences.

In: each model's measures. Out: `baselines.json`, and rows for the terminal's table. Invariant: all
rows are read on the same contexts and windows, so every difference is paired.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from rnr_dist.methods.runner import Budget, Result
from rnr_dist.report.summary import Step, package_versions, plain
from rnr_dist.report.table import MAIN, OUTPUT, literal, steps_table
from rnr_dist.run.directory import write_json
from rnr_dist.stats import ClusterMean, paired_difference
from rnr_dist.tasks.evaluation import scores
from rnr_dist.types import Split

OURS = "R&R"
COMPARED = ("toxicity/challenging/fraction_gt_", "perplexity/")


def write_comparison(
    path: Path,
    measures: Mapping[str, Mapping[str, ClusterMean]],
    results: Mapping[str, Result],
    budget: Budget,
    split: Split,
    config: dict[str, Any],
) -> None:
    """Write `path` and print it. `measures` goes by row name: base, controls, `R&R`, methods."""
    ours = measures[OURS]
    rows, steps = [], []
    for name, found in measures.items():
        scored = scores(dict(found), None if name == "base" else dict(measures["base"]), split)
        steps.append(Step(name, (), scored, ""))
        versus = {}
        if name in results:
            for key in (key for key in found if key.startswith(COMPARED)):
                difference, bounds = paired_difference(found[key], ours[key])
                versus[key] = {"difference": difference, "ci95": bounds}
        result = results.get(name)
        rows.append(
            {
                "name": name,
                "scores": {key: vars(score) for key, score in scored.items()},
                "against_ours": versus,
                "tokens": result.tokens if result else budget.tokens if name == OURS else None,
                "candidates": result.candidates
                if result
                else budget.candidates
                if name == OURS
                else None,
                "candidate": result.candidate if result else None,
                "feasible": result.feasible if result else None,
                "broken": list(result.broken) if result else [],
            }
        )
    content = {"config": config, "versions": package_versions(), "split": split, "rows": rows}
    write_json(path, plain(content))
    console = Console()
    console.print(steps_table(steps, MAIN, "Methods side by side"))
    console.print(steps_table(steps, OUTPUT, "The continuations themselves"))
    console.print(_budget_table(rows))


def _budget_table(rows: list[dict[str, Any]]) -> Table:
    table = Table(
        title="What each was given, and how it compares",
        caption="more: toxic share of challenging continuations minus R&R's (95 % interval)",
        box=box.HORIZONTALS,
    )
    for title in ("method", "trained tokens", "candidates", "chosen", "rules", "more than R&R"):
        table.add_column(title, justify="left" if title in ("method", "chosen") else "right")
    for row in rows:
        if row["tokens"] is None:
            continue
        key = next((key for key in row["against_ours"] if key.startswith(COMPARED[0])), "")
        more = row["against_ours"].get(key)
        low, high = more["ci95"] if more else (0.0, 0.0)
        table.add_row(
            literal(row["name"]),
            f"{row['tokens']:,}",
            str(row["candidates"]),
            literal(row["candidate"] or ""),
            "" if row["feasible"] is None else "met" if row["feasible"] else "missed",
            f"{more['difference']:+.1%} ({low:+.1%}…{high:+.1%})" if more else "",
        )
    return table
