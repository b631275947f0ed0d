"""From the files of the earlier stages to summary.json, figures and the terminal table.

Invariant: computes no measure that cannot be recomputed from the run directory, starts nothing.
"""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from rnr_dist.config.schema import Config
from rnr_dist.recipes.reveal_and_release import read_measures
from rnr_dist.release.loop import RELEASED, Released
from rnr_dist.report.figures import front_figure, reveal_figure, search_figure, steps_figure
from rnr_dist.report.summary import Step, package_versions, read_summary, write_summary
from rnr_dist.report.table import print_report
from rnr_dist.run.codec import to_plain
from rnr_dist.run.directory import RunDir, read, read_json
from rnr_dist.tasks.evaluation import scores
from rnr_dist.types import ModelRef
from rnr_dist.weights.subspace import similarity_rows


def assemble(config: Config, run: RunDir, models: dict[str, ModelRef]) -> list[Path]:
    """Write everything into the run directory and print the table; returns the files."""
    evaluated = run.path / "evaluate"
    measures = {
        name: read_measures(evaluated, name) for name in read_json(evaluated / "order.json")
    }
    base = measures["base"]
    steps = [
        Step(
            name,
            tuple(
                {
                    "role": term.adapter.role,
                    "coefficient": term.coefficient,
                    "adapter": term.adapter.digest,
                }
                for term in models[name].terms
            ),
            scores(found, None if name == "base" else base, config.evaluate.split),
            models[name].digest,
        )
        for name, found in measures.items()
    ]
    released = read(run.path / RELEASED, Released)
    front = to_plain(released.front)
    notes = [
        f"{name}: no candidate weight satisfied its rules; the least violation was taken"
        for name in released.fallbacks
    ]
    summary, folder = run.path / "summary.json", run.stage("figures")
    write_summary(
        summary,
        config=config.model_dump(mode="json"),
        seeds={"seed": config.seed},
        versions=package_versions(),
        stages=read_json(run.path / "stages.json"),
        reveal=read_json(run.path / "reveal" / "fills.json"),
        trials=released.trials,
        front=front,
        subspaces=similarity_rows(released.steps[-1].model),
        steps=steps,
        notes=notes,
    )
    figures = [folder / f"{name}.png" for name in ("steps", "search", "reveal")]
    steps_figure(steps, figures[0])
    search_figure(released.trials, figures[1])
    reveal_figure(read_json(run.path / "reveal" / "pulls.json"), figures[2])
    if front:
        figures.append(folder / "front.png")
        front_figure(front, figures[-1])
    print_report(read_summary(summary), Console())
    return [summary, *figures]
