"""Teach, then Reveal-and-Release: for a model that cannot do yet what it shall forget."""

from __future__ import annotations

from dataclasses import replace

from rnr_dist.recipes.recipe import Recipe, Stage
from rnr_dist.recipes.reveal_and_release import RECIPE as REVEAL_AND_RELEASE
from rnr_dist.tasks.teaching import STAGE, taught_model, teach_stage

TAUGHT = ("seed", "model", "task", "workers.dtype")
_, *AFTER = REVEAL_AND_RELEASE.stages
[REVEAL] = REVEAL_AND_RELEASE.until("reveal")

RECIPE = Recipe(
    "teach-reveal-release",
    (
        Stage(STAGE, (), TAUGHT, teach_stage, base=taught_model),
        replace(REVEAL, needs=(STAGE,)),
        *AFTER,
    ),
    last=REVEAL_AND_RELEASE.last,
)
