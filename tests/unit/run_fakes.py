"""Runs without a model: a checkpoint of one matrix, configs on it, recipes whose stages only note.

Invariant: stages have the names, needs and keys of the real recipes.
"""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import save_file

from rnr_dist.config.file import validate
from rnr_dist.errors import InputError
from rnr_dist.recipes import pipeline
from rnr_dist.recipes.pipeline import RECIPES
from rnr_dist.recipes.recipe import Recipe
from tests.unit.fakes import FakeTracker

SOURCE = {"source": "builtin:expository", "splits": {"final": 1}}
BEHAVIOUR = {"name": "toxicity", "challenging": SOURCE, "ordinary": SOURCE}
BEHAVIOUR |= {"in_domain": [SOURCE], "out_of_domain": [SOURCE]}
TASKS = {"reveal-and-release": BEHAVIOUR, "unlearn-sequences": {"name": "extraction"}}


def content(recipe="reveal-and-release", **more):
    """A config as a file gives it, on the checkpoint `./model`."""
    return {"name": "small", "model": "./model", "task": TASKS[recipe], **more}


def config(recipe="reveal-and-release", **more):
    return validate(content(recipe, **more), "")


def checkpoint(folder, seed):
    """One drawn weight matrix, which no library loads as a model."""
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    weights = np.random.default_rng(seed).normal(size=(4, 4)).astype(np.float32)
    save_file({"model.layers.0.self_attn.q_proj.weight": weights}, folder / "model.safetensors")


def pretended(ran):
    """The recipes; a stage appends its name to `ran` and leaves a file that no other one equals."""

    def noted(name):
        def stage(bench, task, run):
            ran.append(name)
            (run.stage(name) / "made.txt").write_text(f"{bench.config.seed} {len(ran)}")

        return stage

    return {
        recipe.name: replaced(recipe, {one.name: noted(one.name) for one in recipe.stages})
        for recipe in RECIPES.values()
    }


def replaced(recipe, functions):
    """The recipe with other functions for the stages of these names."""
    stages = tuple(
        replace(stage, run=functions.get(stage.name, stage.run)) for stage in recipe.stages
    )
    return Recipe(recipe.name, stages, recipe.last)


def runner(place, monkeypatch, ran=None, recipes=None):
    """Do what is not done of a pretended recipe in `place`; returns the stages that ran."""
    ran = [] if ran is None else ran
    monkeypatch.setattr(pipeline, "RECIPES", recipes or pretended(ran))
    monkeypatch.setattr(pipeline, "Tracker", lambda *where: FakeTracker())

    def went(found, until=None, reread=False):
        ran.clear()
        run = pipeline.open_run(place, found, (place / "config.json").exists(), reread)
        pipeline.run_pipeline(found, SimpleNamespace(oracle=""), run, until, reread=reread)
        return list(ran)

    return went


def refusal(go, *arguments):
    """The one sentence with which going on is refused."""
    with pytest.raises(InputError) as caught:
        go(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)
