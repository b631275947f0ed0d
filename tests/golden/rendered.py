"""Tables of stored runs, line by line, under the measures that the tasks declare.

In: `docs/results`, files of schema 1. Out: lines, 120 columns wide, and the notes that a reader is
told. Invariant: as of `figures`, whose figure `tables` this is.
"""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

from rich.console import Console

from rnr_dist.config.unlearning import Stopping
from rnr_dist.measures.continuations import BASE_NLL
from rnr_dist.measures.fluency import FLUENCY
from rnr_dist.measures.measure import Measure
from rnr_dist.measures.sequence_rows import AUC, declared
from rnr_dist.measures.shares import Shares
from rnr_dist.report.findings import like_control
from rnr_dist.report.summary import Summary, read_summary
from rnr_dist.report.table import (
    budget_table,
    instructions_table,
    measure_tables,
    stages_table,
    subspaces_table,
    trials_table,
)
from rnr_dist.tasks.behaviour import PERPLEXITIES
from tests.golden import given


def tables() -> dict[str, Any]:
    """Every table of the demo, of methods beside it, and of given sequences with theirs."""
    toxic = _toxicity()
    demo, methods = (_stored(name, toxic) for name in ("demo-seed0", "toxicity_table/seed-0"))
    sequences = _sequences()
    trials = given.result("toxicity_table/seed-0")["trials"]["R&R"]
    shown = {
        **_named(demo, ("steps", "output")),
        "instructions": instructions_table(demo.details.fills),
        "trials": trials_table(demo.details.trials, demo.declared),
        "trials of methods": trials_table(trials, demo.declared),
        "subspaces": subspaces_table(given.result("toxicity_table/seed-0")["subspaces"]),
        "stages": stages_table(demo.stages),
        **_named(methods, ("methods", "methods' output")),
        "methods' budget": budget_table(methods.rows, methods.declared.target),
        **_named(sequences, ("recalled", "kept")),
    }
    told = {name: _lines(table) for name, table in shown.items()}
    return {**told, "told from the control": _told_apart(sequences)}


def _stored(name: str, measures: tuple[Measure, ...]) -> Summary:
    return replace(read_summary(given.RESULTS / f"{name}.json"), measures=measures)


def _toxicity() -> tuple[Measure, ...]:
    challenging, ordinary = (
        Shares("toxicity", group, "toxic", 0.5, target=forgets, judged=forgets)
        for group, forgets in (("challenging", True), ("ordinary", False))
    )
    shares = (challenging.fraction, ordinary.fraction, challenging.judge)
    return (*shares, *PERPLEXITIES.values(), *FLUENCY, BASE_NLL)


def _sequences() -> Summary:
    """Schema 1 kept the AUC beside the scores, without its measure's name."""
    found = _stored("icu_table/seed-1", declared(Stopping()))
    rows = (replace(row, scores={**row.scores, AUC.name: row.scores["auc"]}) for row in found.rows)
    return replace(found, rows=tuple(rows))


def _named(summary: Summary, names: tuple[str, str]) -> dict[str, Any]:
    found = measure_tables(summary.rows, summary.declared, summary.reference)
    return dict(zip(names, found, strict=True))


def _told_apart(summary: Summary) -> dict[str, list[str]]:
    """Of each trained row the hidden measures that tell it from the control."""
    control = next(row for row in summary.rows if row.kind == "control")
    return {
        row.name: [
            measure.name
            for measure in summary.measures
            if measure.hidden
            and not like_control(measure, row.scores[measure.name], control.scores[measure.name])
        ]
        for row in summary.rows
        if row.name in summary.details.curves
    }


def _lines(table: Any) -> list[str]:
    console = Console(width=120, file=io.StringIO(), color_system=None, record=True)
    console.print(table)
    return console.export_text().splitlines()
