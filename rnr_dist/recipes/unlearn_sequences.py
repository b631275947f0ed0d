"""Unlearn given sequences: memorise -> icu -> evaluate -> report, methods and sweeps beside it."""

from __future__ import annotations

from rnr_dist.icu.stage import icu_stage, memorise_stage, sweep_stage
from rnr_dist.methods.stage import baselines_stage
from rnr_dist.recipes.recipe import Recipe, Stage
from rnr_dist.report.stage import report_stage
from rnr_dist.tasks.evaluation import evaluate_stage

MEMORISED = ("seed", "model", "task", "preset", "memorise", "workers.dtype")
UNLEARNT = ("engines.dtype", "pairing", "refinement", "stopping", "perplexity")

RECIPE = Recipe(
    "unlearn-sequences",
    (
        Stage("memorise", (), MEMORISED, memorise_stage),
        Stage("icu", ("memorise",), (*UNLEARNT, "methods"), icu_stage),
        Stage("evaluate", ("icu",), ("evaluate",), evaluate_stage, judges=True),
        Stage("report", ("evaluate",), (), report_stage),
        Stage("baselines", ("evaluate",), ("retain", "release"), baselines_stage, judges=True),
        Stage("sweep", ("memorise",), (*UNLEARNT, "methods", "sweep"), sweep_stage),
    ),
    last="report",
)
