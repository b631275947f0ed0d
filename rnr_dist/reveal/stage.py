"""The stage `reveal`: Algorithm 1 from a task's contexts to the forget set.

In: a task that gives contexts. Out: forget_set.parquet, fills, pulls, the table of instructions.
Invariant: each finished pull is in the event log once, so a stage that was interrupted goes on.
"""

from __future__ import annotations

from rnr_dist.bench import Bench
from rnr_dist.errors import InputError
from rnr_dist.reveal.history import Fill
from rnr_dist.reveal.instructions_file import write_instructions
from rnr_dist.reveal.search import Listeners, search
from rnr_dist.reveal.setting import Setting
from rnr_dist.run.directory import RunDir, write, write_rows
from rnr_dist.run.progress import say
from rnr_dist.tasks.task import Task


def reveal_stage(bench: Bench, task: Task, run: RunDir) -> None:
    """Algorithm 1: the forget set. Raises InputError where nothing relevant was said."""
    tracker = bench.tracker

    def log_fill(fill: Fill) -> None:
        with tracker.nested(f"outer iteration {fill.outer + 1}", {"instruction": fill.instruction}):
            figures = ("score", "relevance", "diversity", "n_generated", "n_rows")
            tracker.metrics({key: getattr(fill, key) for key in figures})

    def log_pull(number: int, figures: dict[str, float]) -> None:
        """A series for each outer iteration: in each, what is best begins anew."""
        outer = f"outer {figures['outer'] + 1:.0f}"
        told = {f"{outer}/{key}": value for key, value in figures.items() if key != "outer"}
        tracker.metrics(told, number)

    folder = run.stage("reveal")
    history = search(Setting(bench, task, folder), Listeners(log_pull, log_fill))
    rows = history.forget_rows()
    if not rows:
        raise InputError(
            f"{folder}: no response reached reveal.min_relevance "
            f"{bench.config.reveal.min_relevance}; lower it, or raise reveal.budget or "
            "reveal.fill_per_context"
        )
    write_rows(folder / "forget_set.parquet", rows)
    write(folder / "fills.json", history.fills)
    write(folder / "pulls.json", history.pulls)
    tracker.artifact(write_instructions(history.pulls, history.rechecks, folder))
    tracker.metrics({"forget_rows": len(rows)})
    say(f"forget set: {len(rows)} rows")
