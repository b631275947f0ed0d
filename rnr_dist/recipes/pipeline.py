"""One pipeline for every recipe: do what is not done yet, up to and with a stage.

In: a config, its task, a run directory. Out: the same directory with the stages done. Invariant: a
stage whose manifest stands with the same fingerprint is never done again, so a run goes on where it
was; a changed key makes those stages anew that depend on it, and says which.
"""

from __future__ import annotations

import time
from pathlib import Path

from rnr_dist.bench import Bench, Check, no_check
from rnr_dist.config.schema import Config
from rnr_dist.errors import InputError
from rnr_dist.recipes.recipe import Recipe
from rnr_dist.recipes.reveal_and_release import RECIPE as REVEAL_AND_RELEASE
from rnr_dist.recipes.unlearn_sequences import RECIPE as UNLEARN_SEQUENCES
from rnr_dist.run.directory import RunDir, read_json, write_json
from rnr_dist.run.meter import Meter
from rnr_dist.run.progress import say
from rnr_dist.run.seal import read_final, require_sealed
from rnr_dist.run.tracking import Tracker, default_uri
from rnr_dist.tasks.task import Task
from rnr_dist.types import Split
from rnr_dist.weights.checkpoints import keep_base

RECIPES = {recipe.name: recipe for recipe in (REVEAL_AND_RELEASE, UNLEARN_SEQUENCES)}


def recipe_of(config: Config, stage: str | None = None) -> tuple[Recipe, str]:
    """The config's recipe, and the stage that is asked for (None: its last one).

    Raises InputError where the recipe has no such stage.
    """
    recipe = RECIPES[config.recipe]
    wanted = stage or recipe.last
    names = [one.name for one in recipe.stages]
    if wanted not in names:
        raise InputError(
            f"{config.name}: the recipe {recipe.name} has no stage {wanted}; expected one of "
            f"{', '.join(names)}"
        )
    return recipe, wanted


def open_run(path: Path, config: Config, resume: bool, reread: bool = False) -> RunDir:
    """The run directory, new or gone on with. A resumed run takes the config's changes.

    Raises InputError where a change leaves no finished stage as it is, which is another run, and
    where the sealed split was read before the change and `reread` is off.
    """
    content = config.content()
    run = RunDir.open(path, content, resume)
    changed = run.changed_keys(content)
    if not changed:
        return run
    recipe, finished = RECIPES[config.recipe], run.finished()
    anew = [
        stage.name
        for stage in recipe.stages
        if stage.name in finished and finished[stage.name] != fingerprint(config, stage.name)
    ]
    told = ", ".join(changed[:3]) + (", ..." if changed[3:] else "")
    told = "recipe" if "recipe" in changed else told
    if "recipe" in changed or (anew and len(anew) == len(finished)):
        raise InputError(
            f"{run.path}: this run directory belongs to another config (differs in {told}), none "
            "of its finished stages would stay; expected the same config, or another directory"
        )
    if config.evaluate.split is Split.FINAL and not reread:
        for stage in recipe.stages:
            if stage.judges:
                require_sealed(run.path, stage.name, fingerprint(config, stage.name))
    run.take_config(content)
    say(f"changed: {told}; made anew: {', '.join(anew) or 'nothing that is finished'}")
    return run


def run_pipeline(
    config: Config,
    task: Task,
    run: RunDir,
    until: str | None = None,
    check: Check = no_check,
    reread: bool = False,
) -> None:
    """Do what is not done yet, up to and with the stage `until` of the config's recipe.

    check: of a checkpoint that had no folder here before. reread: the sealed split may be read
    again under another config.
    """
    recipe, wanted = recipe_of(config, until)
    uri = config.tracking.uri or default_uri(run.path.parent)
    tracker = Tracker(uri, config.tracking.experiment, run.path / "mlflow-spool.jsonl")
    try:
        with Bench(config, task.oracle, tracker, check) as bench:
            keep_base(run.path, bench.base)
            with tracker.parent(config.name, config.content()):
                for stage in recipe.until(wanted):
                    mark = fingerprint(config, stage.name)
                    if run.done(stage.name, mark):
                        say(f"{stage.name}: done before")
                        continue
                    if stage.judges and config.evaluate.split is Split.FINAL:
                        read_final(run.path, stage.name, mark, reread)
                    if moved := run.begin(stage.name, mark):
                        say(f"{stage.name}: made with another config before, now in {moved}")
                    meter = Meter()
                    with meter.stage(stage.name), tracker.nested(stage.name, {}):
                        stage.run(bench, task, run)
                    note_stage(run, meter)
                    run.finish(stage.name, mark)
    finally:
        tracker.close()


def fingerprint(config: Config, stage: str) -> str:
    """Digest of all that a stage depends on."""
    return config.fingerprint(*RECIPES[config.recipe].keys_of(stage))


def note_stage(run: RunDir, meter: Meter) -> None:
    """Add to what a stage took in earlier, interrupted attempts of this run."""
    path = run.path / "stages.json"
    stages = read_json(path) if path.exists() else []
    write_json(path, [*stages, *meter.stages])


def run_folder(runs: Path, name: str) -> Path:
    """A new folder for a run, named by its config's name and the time; nobody else gets the same.

    Raises InputError where it cannot be made.
    """
    begun = folder = runs / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    number = 1
    while True:
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            number += 1
            folder = begun.with_name(f"{begun.name}-{number}")
        except OSError as error:
            raise InputError(
                f"{folder}: cannot be made ({error.strerror}); expected a place to write to"
            ) from error
        else:
            return folder
