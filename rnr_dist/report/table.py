"""The report on the terminal: rich tables of steps, instructions and merge-weight candidates.

In: a summary and its parts. Out: tables that read without colour. Invariant: the model's
continuations never appear; its instructions do, as plain text that can neither style nor steer
the terminal.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rnr_dist.report.summary import Step, summary_steps
from rnr_dist.types import Score

NO_VALUE = "–"
RULES = {"1": "meets rule 1", "2": "meets rule 2", "lambda": "meets λ's rule"}


@dataclass(frozen=True)
class Column:
    """A measure (or how its name begins), its title, and how its value is printed."""

    measure: str
    title: str
    style: str


MAIN = (
    Column("toxicity/challenging/fraction_gt_", "toxic, challenging", ".1%"),
    Column("toxicity/ordinary/fraction_gt_", "toxic, ordinary", ".1%"),
    Column("judge/challenging/fraction", "second judge, challenging", ".1%"),
    Column("perplexity/in_domain", "perplexity in domain", ".1f"),
    Column("perplexity/out_of_domain", "perplexity out of domain", ".1f"),
)
OUTPUT = (
    Column("output/empty_share", "empty", ".1%"),
    Column("output/mean_length", "tokens", ".1f"),
    Column("output/entropy", "entropy", ".2f"),
    Column("output/distinct_2", "distinct 2-grams", ".2f"),
    Column("output/distinct_3", "distinct 3-grams", ".2f"),
    Column("output/base_nll", "base's NLL", ".2f"),
)


def steps_table(
    steps: Sequence[Step],
    columns: Sequence[Column] = MAIN,
    title: str = "What was forgotten and what was kept",
) -> Table:
    """One row a step, one column a measure: the value, below it the change against the base.

    The base's own row shows the interval of the value instead. Measures of no step are left out.
    """
    shown = [column for column in columns if any(step.find(column.measure) for step in steps)]
    table = Table(
        title=title,
        caption="change against the base (95 % interval); for the base, the value's own interval",
        box=box.HORIZONTALS,
        show_lines=True,
        collapse_padding=True,
    )
    table.add_column("step", min_width=11)
    for column in shown:
        table.add_column(column.title, justify="right", overflow="fold")
    for step in steps:
        cells = [_cell(step.find(column.measure), column.style) for column in shown]
        table.add_row(literal(step.label), *cells)
    return table


def instructions_table(reveal: Sequence[Mapping[str, Any]]) -> Table:
    """The instruction that each outer iteration chose, its scores, and the rows that it added."""
    table = Table(title="Instructions found", box=box.HORIZONTALS, show_lines=True)
    for title in ("outer", "instruction", "score", "relevance", "diversity", "rows"):
        table.add_column(title, justify="left" if title == "instruction" else "right")
    for found in reveal:
        numbers = [_format(found[key], ".3f") for key in ("score", "relevance", "diversity")]
        instruction = literal(found["instruction"])
        table.add_row(str(found["outer"] + 1), instruction, *numbers, str(found["n_rows"]))
    return table


def trials_table(trials: Sequence[Mapping[str, Any]]) -> Table:
    """Every candidate of every merge weight, as `summary.trial_rows` gives them."""
    table = Table(
        title="Merge weights tried",
        caption=f"utility: share of the base's; {NO_VALUE} : lost on utility before it generated",
        box=box.HORIZONTALS,
    )
    words = ("step", "samples", "rules")
    for title in ("step", "weight", "samples", "forget score", "utility", "rules", ""):
        table.add_column(title, justify="left" if title in words else "right")
    previous = ""
    for trial in trials:
        if previous and trial["step"] != previous:
            table.add_section()
        previous = trial["step"]
        broken = ", ".join(name.removeprefix("output/") for name in trial["broken"])
        met = RULES[trial["rule"]] if trial["rule"] else f"misses {broken}"
        table.add_row(
            literal(trial["step"].replace("-", "−")),
            f"{trial['coefficient']:.3g}",
            "fresh" if trial["draw"] else "first",
            _format(trial["forget"], ".1%"),
            _format(trial["utility"], ".1%"),
            literal(met),
            "◀ chosen" if trial["winner"] else "",
        )
    return table


def print_report(summary: Mapping[str, Any], console: Console) -> None:
    """The whole summary, most important first."""
    steps = summary_steps(summary)
    console.print(steps_table(steps))
    console.print(steps_table(steps, OUTPUT, "The continuations themselves"))
    if summary["reveal"]:
        console.print(instructions_table(summary["reveal"]))
    if summary["trials"]:
        console.print(trials_table(summary["trials"]))
    if summary["subspaces"]:
        console.print(_subspaces_table(summary["subspaces"]))
    if summary["stages"]:
        console.print(_stages_table(summary["stages"]))
    for note in summary["notes"]:
        console.print(literal(f"Note: {note}"))


def literal(text: str) -> Text:
    """`text` in one line, exactly: no markup, no control or direction characters."""
    line = " ".join(text.split())
    return Text("".join(char if char.isprintable() else "�" for char in line))


def _subspaces_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(
        title="Output subspaces that adapters share",
        caption="mean over layers ± standard deviation; top 8 singular vectors",
        box=box.HORIZONTALS,
    )
    for title in ("adapters", "similarity", "by chance", "if equal"):
        table.add_column(title, justify="left" if title == "adapters" else "right")
    for row in rows:
        table.add_row(
            f"{row['one']}, {row['other']}",
            f"{row['mean']:.3f} ± {row['std']:.3f}",
            f"{row['chance']:.3f}",
            f"{row['maximum']:.3f}",
        )
    return table


def _stages_table(stages: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(title="Cost", box=box.HORIZONTALS)
    for title in ("stage", "wall time, s", "peak memory, GiB"):
        table.add_column(title, justify="left" if title == "stage" else "right")
    for stage in stages:
        seconds, memory = stage["wall_seconds"], stage["peak_memory_gib"]
        table.add_row(literal(stage["name"]), _format(seconds, ".0f"), _format(memory, ".1f"))
    return table


def _cell(score: Score | None, style: str) -> str:
    """Value and change without spaces inside either, so that a narrow terminal breaks between."""
    if score is None:
        return NO_VALUE
    value = _format(score.value, style)
    if not score.vs_base:
        return f"{value}\n{_range(score.ci95, style)}"
    if math.isnan(score.vs_base["ratio"]):  # the base's own value is 0
        return f"{value}\n{NO_VALUE}"
    change = _format(score.vs_base["ratio"] - 1, "+.0%")
    low, high = score.vs_base["ci95"]
    return f"{value}\n{change} {_range((low - 1, high - 1), '+.0%')}"


def _range(ends: tuple[float, float], style: str) -> str:
    low, high = (_format(end, style).removesuffix("%") for end in ends)
    return f"({low}…{high})"


def _format(value: float | None, style: str) -> str:
    if value is None or math.isnan(value):
        return NO_VALUE
    return format(value, style).replace("-", "−")
