"""Reveal-and-Release: reveal -> release -> evaluate -> report, and methods beside it."""

from __future__ import annotations

from rnr_dist.methods.stage import baselines_stage
from rnr_dist.recipes.recipe import EVALUATED, Recipe, Stage, in_order
from rnr_dist.release.stage import release_stage
from rnr_dist.report.stage import comparison_stage, report_stage
from rnr_dist.reveal.stage import reveal_stage
from rnr_dist.tasks.evaluation import evaluate_stage

RECIPE = Recipe(
    "reveal-and-release",
    (
        Stage("reveal", (), ("seed", "model", "task", "reveal", "engines.dtype"), reveal_stage),
        Stage(
            "release",
            ("reveal",),
            ("retain", "release", "perplexity", "workers.dtype"),
            release_stage,
        ),
        Stage("evaluate", ("release",), EVALUATED, evaluate_stage, judges=True),
        Stage("report", ("evaluate",), (), report_stage, beside=("summary.json", "figures")),
        Stage(
            "baselines",
            ("report",),
            ("methods", "pairing"),
            in_order(baselines_stage, comparison_stage),
            judges=True,
            beside=("release/readings",),
        ),
    ),
    last="report",
)
