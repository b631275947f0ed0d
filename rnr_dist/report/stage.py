"""What people see of a run: the stage `report`, and the tables after methods and sweeps.

In: a run directory. Out: `summary.json`, `figures/`, tables on the terminal. Invariant: no measure
is computed that cannot be computed again from the run directory, and no model is asked.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rnr_dist.bench import Bench
from rnr_dist.measures.results import read_results
from rnr_dist.report.card import card_of
from rnr_dist.report.comparison import write_comparison
from rnr_dist.report.continuations import write_continuations
from rnr_dist.report.epochs import epochs_figure
from rnr_dist.report.figures import reveal_figure, steps_figure
from rnr_dist.report.findings import findings_of
from rnr_dist.report.scores_figure import scored, scores_figure
from rnr_dist.report.search_figures import front_figure, search_figure
from rnr_dist.report.summary import Summary, write_summary
from rnr_dist.report.sweep import print_sweep
from rnr_dist.report.table import print_report
from rnr_dist.report.tracked import epoch_columns, track_result, write_table
from rnr_dist.run.directory import STAGES_NOTE, RunDir, read_json
from rnr_dist.run.progress import say
from rnr_dist.run.shown import terminal
from rnr_dist.tasks.evaluation import RESULTS, run_models
from rnr_dist.tasks.task import Task
from rnr_dist.train.job import SUMMARY


def report_stage(bench: Bench, task: Task, run: RunDir) -> None:
    """Write summary, figures and continuations into the run directory and print the tables."""
    results = read_results(run.path / "evaluate" / RESULTS)
    found = findings_of(run, bench.config, results)
    took = run.path / STAGES_NOTE
    stages = read_json(took) if took.exists() else []
    summary = Summary.of(bench.config, found.results, stages, found.details, found.notes)
    path = run.path / "summary.json"
    write_summary(path, summary)
    for written in [path, *draw_figures(summary, run), *_continuations(bench, task, run)]:
        bench.tracker.exhibit(written)
    track_result(bench, run, summary)
    _log_model(bench, run)
    print_report(summary, terminal())


def comparison_stage(bench: Bench, task: Task, run: RunDir) -> None:
    """After the methods that stand beside the recipe's own: one table of all."""
    folder = run.stage("baselines")
    for written in write_comparison(run, read_results(folder / RESULTS), folder):
        bench.tracker.exhibit(written)


def sweep_table_stage(bench: Bench, task: Task, run: RunDir) -> None:
    """After a sweep: its table."""
    found = read_json(run.path / "sweep" / "sweep.json")
    print_sweep(found["method"], [*bench.config.sweep.over], found["places"])


def draw_figures(summary: Summary, run: RunDir) -> list[Path]:
    """The figures whose data is there, into `run`/figures."""
    folder, found, target = run.stage("figures"), summary.details, summary.declared.target
    figures = [folder / "steps.png"]
    steps_figure(summary.rows, summary.declared, summary.reference, figures[0])
    if scored(summary.declared):
        figures.append(folder / "scores.png")
        scores_figure(summary.rows, summary.declared, figures[-1])
    if found.trials:
        figures.append(folder / "search.png")
        search_figure(found.trials, target, figures[-1])
    path = run.path / "reveal" / "pulls.json"
    if pulls := read_json(path) if path.exists() else []:  # none where prompts were given
        figures.append(folder / "reveal.png")
        reveal_figure(pulls, figures[-1])
    if found.front:
        figures.append(folder / "front.png")
        front_figure(found.front, target, figures[-1])
    if found.curves:
        figures.append(folder / "epochs.png")
        epochs_figure(found.curves, found.limits, summary.own.name, figures[-1])
    return figures


def _continuations(bench: Bench, task: Any, run: RunDir) -> list[Path]:
    """What the recipe's own method said of the task's sequences after each epoch."""
    folder = run.path / "icu"
    training = folder / "models" / bench.config.own_method / SUMMARY
    if not training.exists():
        return []
    epochs = read_json(training)["epochs"]
    table = run.stage("report") / "continuations.json"
    columns = epoch_columns(task.forget, epochs, bench.tokenizer)
    bench.tracker.exhibit(write_table(table, columns), table=True)
    return [write_continuations(task.forget, epochs, bench.tokenizer, folder)]


def _log_model(bench: Bench, run: RunDir) -> None:
    """The result's adapter as a model in MLflow; a result of whole weights stays in the run."""
    steps = [named.model for named in run_models(run) if named.kind == "step"]
    if not steps or not steps[-1].terms:
        return
    from rnr_dist.report.logged_model import write_model
    from rnr_dist.weights.export import base_name

    result, folder = steps[-1], run.stage("report") / "model"
    try:
        card = card_of(run, bench.config, result)
        write_model(result, bench.config, card, folder)
    except Exception as error:  # any: a run never fails because of what MLflow is shown
        say(f"MLflow gets no model ({type(error).__name__}: {error})")
        return
    facts = {"base": base_name(result, card), "method": card.method, "forgotten": card.forgotten}
    weights = " ".join(f"{term.coefficient:+g}" for term in result.terms)
    note = {"note": "\n\n".join(card.notes)}
    bench.tracker.model(folder, "result", result.digest, {**facts, "weights": weights, **note})
