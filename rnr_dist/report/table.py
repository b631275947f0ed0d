"""The report on the terminal: tables of measures, instructions, merge weights and cost.

In: a summary. Out: tables that read without colour and fit 80 columns, and lose nothing in fewer
(`report.narrow`). Invariant: the model's continuations never appear; its instructions do, as plain
text that can neither style nor steer the terminal.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rnr_dist.measures.measure import Measure, Measures
from rnr_dist.measures.results import Score
from rnr_dist.report.narrow import WholeTable
from rnr_dist.report.summary import Summary, SummaryRow, own_row
from rnr_dist.run.shown import shown

NO_VALUE = "–"
WIDE_COLUMNS = 5  # with more, 80 columns hold change and interval only below each other
NAME_WIDTH = 12  # characters of a model's name that other columns make room for
RULES = {"1": "meets rule 1", "2": "meets rule 2", "lambda": "meets λ's rule"}


def measure_tables(
    rows: Sequence[SummaryRow], measures: Measures, reference: str, preset: str = ""
) -> list[Table]:
    """A table each title of `measures`, one row a model, one column a measure.

    The value stands above its change against the row `reference`, which shows the value's own
    interval instead. Measures of no row are left out, so are tables of no measure. Below the name
    of what was trained by epochs stands its best epoch.
    """
    shown = {
        title: found
        for title, columns in measures.tables().items()
        if (found := [column for column in columns if any(column.name in r.scores for r in rows)])
    }
    return [
        _measures_table(title, rows, columns, _caption(columns, reference, preset))
        for title, columns in shown.items()
    ]


def instructions_table(fills: Sequence[Mapping[str, Any]]) -> Table:
    """The instruction that each outer iteration chose, its scores, and the rows that it added."""
    table = WholeTable(title="Instructions found", box=box.HORIZONTALS, show_lines=True)
    for title in ("outer", "instruction", "score", "relevance", "diversity", "rows"):
        table.add_column(title, justify="left" if title == "instruction" else "right")
    for found in fills:
        numbers = [_format(found[key], ".3f") for key in ("score", "relevance", "diversity")]
        instruction = literal(found["instruction"])
        table.add_row(str(found["outer"] + 1), instruction, *numbers, str(found["n_rows"]))
    return table


def trials_table(trials: Sequence[Mapping[str, Any]], measures: Measures) -> Table:
    """Every candidate of every merge weight, as `release.candidates.trial_rows` gives them."""
    table = WholeTable(
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
        broken = ", ".join(
            measures[name].title if name in measures else name for name in trial["broken"]
        )
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


def budget_table(rows: Sequence[SummaryRow], target: Measure) -> Table:
    """What each method was given, and how its target compares with the recipe's own result.

    Only of rows whose notes tell how much they were trained on.
    """
    own = own_row(rows)
    table = WholeTable(
        title="What each was given, and how it compares",
        caption=shown(
            "tried: candidates; dead: of these, lost on utility before they generated; more: "
            f"{target.title}, minus that of {own.label} (95 % interval)"
        ),
        box=box.HORIZONTALS,
        collapse_padding=True,
    )
    table.add_column("method", **_whole(literal(row.label) for row in rows))
    for title in ("trained\ntokens", "tried", "dead", "chosen", "rules", "more"):
        left = title == "chosen"
        table.add_column(title, justify="left" if left else "right", overflow="fold")
    for row in rows:
        if row.notes.get("tokens") is None:
            continue
        feasible, more = row.notes.get("feasible"), row.against_own.get(target.name)
        change = ""
        if more:
            style = f"+{target.style}"
            change = f"{_format(more.value, style)}\n{_range(more.ci95, style)}"
        table.add_row(
            literal(row.label),
            f"{row.notes['tokens']:,}",
            *(str(row.notes.get(key, "")) for key in ("candidates", "dead")),
            literal(str(row.notes.get("candidate") or "")),
            "" if feasible is None else "met" if feasible else "missed",
            change,
        )
    return table


def print_report(summary: Summary, console: Console) -> None:
    """The whole summary, most important first."""
    found = summary.details
    for table in measure_tables(summary.rows, summary.declared, summary.reference, summary.preset):
        console.print(table)
    if found.fills:
        console.print(instructions_table(found.fills))
    if found.trials:
        console.print(trials_table(found.trials, summary.declared))
    if found.subspaces:
        console.print(subspaces_table(found.subspaces))
    if summary.stages:
        console.print(stages_table(summary.stages))
    print_notes(summary.notes, console)


def print_notes(notes: Sequence[str], console: Console) -> None:
    for note in notes:
        console.print(literal(f"Note: {note}"))


def literal(text: str) -> Text:
    """`text` in one line, exactly: no markup, no control or direction characters."""
    return Text(shown(" ".join(text.split())))


def _measures_table(
    title: str, rows: Sequence[SummaryRow], columns: Sequence[Measure], caption: str
) -> Table:
    table = WholeTable(
        title=shown(title),
        caption=shown(caption),
        box=box.HORIZONTALS,
        show_lines=True,
        collapse_padding=True,
    )
    narrow = len(columns) > WIDE_COLUMNS
    table.add_column("model", **_whole(map(_name, rows)))
    for column in columns:
        heading = shown(column.title)
        if narrow:
            heading = heading.replace(" ", "\n")
        table.add_column(heading, justify="right", overflow="fold")
    for row in rows:
        cells = [_cell(row.scores.get(column.name), column, narrow) for column in columns]
        table.add_row(_name(row), *cells)
    return table


def _whole(names: Iterable[Text]) -> dict[str, Any]:
    """A column of names: as wide as they are, and folded, never cut, where they are too wide."""
    lines = [line for name in names for line in name.plain.splitlines()]
    return {"overflow": "fold", "min_width": min(NAME_WIDTH, max(map(len, lines), default=0))}


def _caption(columns: Sequence[Measure], reference: str, preset: str) -> str:
    told = [f"preset {preset}"] if preset else []
    if any(column.compared and column.adds != "auc" for column in columns):
        told.append(
            f"change against {reference} (95 % interval); for {reference}, the value's own interval"
        )
    hidden = [column.title for column in columns if column.hidden]
    if hidden:
        told.append(f"training and choosing never saw {', '.join(hidden)}")
    return "; ".join(told)


def _name(row: SummaryRow) -> Text:
    """The label, and the best epoch of a training: with a star where a limit was missed in it."""
    label = literal(row.label)
    if "best" in row.notes:
        label.append(f"\nepoch {row.notes['best']}{'' if row.notes.get('met', True) else '*'}")
    return label


def subspaces_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """How much of the same output subspace two adapters use (`weights.subspace`)."""
    table = WholeTable(
        title="Output subspaces that adapters share",
        caption="mean over layers ± standard deviation; top 8 singular vectors",
        box=box.HORIZONTALS,
    )
    for title in ("adapters", "similarity", "by chance", "if equal"):
        table.add_column(title, justify="left" if title == "adapters" else "right")
    for row in rows:
        table.add_row(
            literal(f"{row['one']}, {row['other']}"),
            f"{row['mean']:.3f} ± {row['std']:.3f}",
            f"{row['chance']:.3f}",
            f"{row['maximum']:.3f}",
        )
    return table


def stages_table(stages: Sequence[Mapping[str, Any]]) -> Table:
    """What each stage cost."""
    table = WholeTable(title="Cost", box=box.HORIZONTALS)
    for title in ("stage", "wall time, s", "peak memory, GiB"):
        table.add_column(title, justify="left" if title == "stage" else "right")
    for stage in stages:
        seconds, memory = stage["wall_seconds"], stage["peak_memory_gib"]
        table.add_row(literal(stage["name"]), _format(seconds, ".0f"), _format(memory, ".1f"))
    return table


def _cell(score: Score | None, measure: Measure, narrow: bool) -> str:
    """Value and change without spaces inside either, so that a narrow terminal breaks between."""
    if score is None:
        return NO_VALUE
    value = _format(score.value, measure.style)
    if not measure.compared and measure.adds != "auc":
        return value
    if score.ratio is None or score.ratio_ci95 is None:
        return f"{value}\n{_range(score.ci95, measure.style)}"
    if math.isnan(score.ratio):  # the reference's own value is 0
        return f"{value}\n{NO_VALUE}"
    low, high = score.ratio_ci95
    change, bounds = _format(score.ratio - 1, "+.0%"), _range((low - 1, high - 1), "+.0%")
    return f"{value}\n{change}\n{bounds}" if narrow else f"{value}\n{change} ({bounds})"


def _range(ends: tuple[float, float], style: str) -> str:
    low, high = (_format(end, style).removesuffix("%") for end in ends)
    return f"{low}…{high}"


def _format(value: float | None, style: str) -> str:
    if value is None or math.isnan(value):
        return NO_VALUE
    return format(value, style).replace("-", "−")
