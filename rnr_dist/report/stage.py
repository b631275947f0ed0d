"""The stage `report`: from the files of the stages before it to summary, figures and tables.

In: a run directory. Out: `summary.json`, `figures/`, tables on the terminal. Invariant: no measure
is computed that cannot be computed again from the run directory, and no model is asked.
"""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from rnr_dist.bench import Bench
from rnr_dist.report.epochs import epochs_figure
from rnr_dist.report.figures import reveal_figure, steps_figure
from rnr_dist.report.findings import findings_of
from rnr_dist.report.search_figures import front_figure, search_figure
from rnr_dist.report.summary import Summary, read_results, write_summary
from rnr_dist.report.table import print_report
from rnr_dist.run.directory import RunDir, read_json
from rnr_dist.tasks.evaluation import RESULTS
from rnr_dist.tasks.task import Task


def report_stage(bench: Bench, task: Task, run: RunDir) -> None:
    """Write everything into the run directory and print it."""
    results = read_results(run.path / "evaluate" / RESULTS)
    found = findings_of(run, results)
    stages = read_json(run.path / "stages.json") if (run.path / "stages.json").exists() else []
    summary = Summary.of(bench.config, found.results, stages, found.details, found.notes)
    path = run.path / "summary.json"
    write_summary(path, summary)
    for written in [path, *draw_figures(summary, run)]:
        bench.tracker.artifact(written)
    print_report(summary, Console())


def draw_figures(summary: Summary, run: RunDir) -> list[Path]:
    """The figures whose data is there, into `run`/figures."""
    folder, found, target = run.stage("figures"), summary.details, summary.declared.target
    figures = [folder / "steps.png"]
    steps_figure(summary.rows, summary.declared, summary.reference, figures[0])
    if found.trials:
        figures.append(folder / "search.png")
        search_figure(found.trials, target, figures[-1])
    pulls = run.path / "reveal" / "pulls.json"
    if pulls.exists():
        figures.append(folder / "reveal.png")
        reveal_figure(read_json(pulls), figures[-1])
    if found.front:
        figures.append(folder / "front.png")
        front_figure(found.front, target, figures[-1])
    if found.curves:
        figures.append(folder / "epochs.png")
        epochs_figure(found.curves, found.limits, summary.own.name, figures[-1])
    return figures
