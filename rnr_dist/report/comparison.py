"""The recipe's result and the methods beside it in one table: paired, with what each was given.

In: results whose rows of kind `method` tell their budget. Out: `baselines.json`, curves where there
are any, and tables. Invariant: all rows are read on the same contexts, windows or sequences, so
every difference is paired.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rnr_dist.config.file import validate
from rnr_dist.measures.results import Results
from rnr_dist.report.epochs import epochs_figure
from rnr_dist.report.findings import findings_of
from rnr_dist.report.summary import Details, Summary, own_row, write_summary
from rnr_dist.report.table import budget_table, measure_tables, print_notes
from rnr_dist.run.directory import RunDir, read_json
from rnr_dist.run.shown import terminal


def write_comparison(run: RunDir, results: Results, folder: Path) -> list[Path]:
    """Write `folder`/baselines.json and what goes with it, and print the tables.

    results: reference, controls, steps (the last of them is the recipe's result) and the methods,
    whose notes may hold `tokens`, `candidates`, `dead`, `candidate`, `feasible`, `broken`. Returns
    what was written.
    """
    marker = run.path / "config.json"
    config = validate(read_json(marker), str(marker))
    found = findings_of(run, config, ends(results, config.own_method))
    curves = Details(
        limits=found.details.limits, curves=found.details.curves, tuning=found.details.tuning
    )
    summary = Summary.of(config, found.results, (), curves, found.notes).beside_own(found.results)
    written = [folder / "baselines.json"]
    write_summary(written[0], summary)
    if curves.curves:
        written.append(folder / "epochs.png")
        epochs_figure(curves.curves, curves.limits, summary.own.name, written[-1])
    console = terminal()
    for table in measure_tables(summary.rows, summary.declared, summary.reference, summary.preset):
        console.print(table)
    if any(row.notes.get("tokens") is not None for row in summary.rows):
        console.print(budget_table(summary.rows, summary.declared.target))
    print_notes(summary.notes, console)
    return written


def ends(results: Results, method: str) -> Results:
    """Without the steps that led to the recipe's result, which is called by its method's name."""
    own = own_row(results.rows)
    return replace(
        results,
        rows=tuple(
            replace(row, name=method) if row is own else row
            for row in results.rows
            if row.kind != "step" or row is own
        ),
    )
