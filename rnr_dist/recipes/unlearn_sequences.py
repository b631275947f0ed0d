"""Unlearn given sequences: memorise -> icu -> evaluate -> report, methods and sweeps beside it."""

from __future__ import annotations

from rnr_dist.icu.stage import icu_stage, memorise_stage, sweep_stage
from rnr_dist.methods.stage import baselines_stage
from rnr_dist.recipes.recipe import EVALUATED, Recipe, Stage, in_order
from rnr_dist.report.stage import comparison_stage, report_stage, sweep_table_stage
from rnr_dist.tasks.evaluation import evaluate_stage

MEMORISED = ("seed", "model", "task", "preset", "memorise", "workers.dtype")
UNLEARNT = ("engines.dtype", "pairing", "refinement", "stopping", "perplexity", "methods.retained")
REPORTED = ("summary.json", "figures", "icu/continuations.md")

RECIPE = Recipe(
    "unlearn-sequences",
    (
        Stage("memorise", (), MEMORISED, memorise_stage),
        Stage("icu", ("memorise",), (*UNLEARNT, "methods.icu"), icu_stage, beside=("materials",)),
        Stage("evaluate", ("icu",), EVALUATED, evaluate_stage, judges=True),
        Stage("report", ("evaluate",), (), report_stage, beside=REPORTED),
        Stage(
            "baselines",
            ("report",),
            ("methods", "release"),
            in_order(baselines_stage, comparison_stage),
            judges=True,
            beside=("materials",),
        ),
        Stage(
            "sweep",
            ("memorise",),
            (*UNLEARNT, "methods.swept", "sweep"),
            in_order(sweep_stage, sweep_table_stage),
            beside=("icu/levels.json", "materials"),
        ),
    ),
    last="report",
)
