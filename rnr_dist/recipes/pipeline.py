"""One pipeline for every recipe: do what is not done yet, up to and with a stage.

In: a config, its task, a run directory. Out: the same directory with the stages done. Invariant: a
stage whose manifest stands with the same fingerprint is never done again, so a run goes on where it
was; a changed key makes those stages anew that depend on it, and says which.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Set
from pathlib import Path

from rnr_dist.bench import Bench
from rnr_dist.config.file import validate
from rnr_dist.config.schema import Config
from rnr_dist.errors import InputError
from rnr_dist.recipes.inputs import inputs_of, require_inputs
from rnr_dist.recipes.origin import datasets_made, datasets_of, parameters, tags_of
from rnr_dist.recipes.recipe import Recipe, Stage
from rnr_dist.recipes.reveal_and_release import RECIPE as REVEAL_AND_RELEASE
from rnr_dist.recipes.teach_reveal_release import RECIPE as TEACH_REVEAL_RELEASE
from rnr_dist.recipes.unlearn_sequences import RECIPE as UNLEARN_SEQUENCES
from rnr_dist.run.directory import STAGES_NOTE, RunDir, read_json, write_json
from rnr_dist.run.forecast import Forecast, earlier
from rnr_dist.run.meter import Meter
from rnr_dist.run.progress import say
from rnr_dist.run.seal import read_final, require_noted, require_sealed
from rnr_dist.run.system import watched
from rnr_dist.run.tracking import SPOOL, Tracker, default_uri
from rnr_dist.tasks.evaluation import run_models
from rnr_dist.tasks.task import Task
from rnr_dist.types import Split, digest
from rnr_dist.weights.checkpoints import keep_base

# Of a checkpoint that had no folder here before, on what the config and its data need.
Check = Callable[[Config, Path, Task], None]
RECIPES = {
    recipe.name: recipe for recipe in (REVEAL_AND_RELEASE, TEACH_REVEAL_RELEASE, UNLEARN_SEQUENCES)
}


def no_check(config: Config, folder: Path, task: Task) -> None:
    """Nothing is asked of a checkpoint."""


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
    try:
        changed = run.changed_keys(content)
    except InputError as error:  # what was made with which config, the stages know as well
        say(f"{error}; taken as the config that is given now")
        changed = ["config.json, which is damaged"]
    _note_readings(run)
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


def _note_readings(run: RunDir) -> None:
    """Note what the run has read of `final` where the notes of that were lost."""
    for name, mark in judged_on_final(run):
        require_noted(run.path, name, mark)


def judged_on_final(run: RunDir) -> list[tuple[str, str]]:
    """The stages that have read `final` under the run's config, with their fingerprints."""
    try:
        config = validate(read_json(run.marker), str(run.marker))
    except InputError:
        return []  # with which config they were made is not known
    if config.evaluate.split is not Split.FINAL:
        return []
    marks = [
        (stage.name, fingerprint(config, stage.name), run.begun(stage.name))
        for stage in RECIPES[config.recipe].stages
        if stage.judges
    ]
    return [(name, mark) for name, mark, begun in marks if begun and begun.fingerprint == mark]


def run_pipeline(
    config: Config,
    task: Task,
    run: RunDir,
    until: str | None = None,
    check: Check = no_check,
    reread: bool = False,
) -> str:
    """Do what is not done yet, up to and with the stage `until` of the config's recipe.

    check: of a checkpoint that had no folder here before. reread: the sealed split may be read
    again under another config. Returns the end of the address of the run's page in MLflow, or "".
    """
    recipe, wanted = recipe_of(config, until)
    uri = config.tracking.uri or default_uri(run.path.parent)
    tracker = Tracker(uri, config.tracking.experiment, run.path / SPOOL)
    name, used = run.path.absolute().name, parameters(config, recipe, wanted)
    stages = recipe.until(wanted)
    known = earlier(run.path.parent, run.path, config.name)
    forecast = Forecast([stage.name for stage in stages], known)
    try:
        with (
            Bench(config, task.oracle, tracker, lambda own, at: check(own, at, task)) as bench,
            tracker.parent(name, used, known_as=config.name),
            watched(tracker.metrics, run.path),
        ):
            keep_base(run.path, bench.base)
            _introduce(bench, task, run)
            fresh: set[str] = set()
            for stage in stages:
                if _why(stage, bench, run, fresh) is None:
                    say(f"{stage.name}: done before")
                    forecast.done(stage.name, 0)
                else:
                    say(forecast.line(stage.name))
                    began = time.monotonic()
                    _do(stage, bench, task, run, reread)
                    forecast.done(stage.name, time.monotonic() - began)
                    fresh.add(stage.name)
                if model := stage.base(run):
                    bench.work_on(model)
                for dataset in datasets_made(run, stage.name):
                    tracker.dataset(dataset)
            page = tracker.page()
    finally:
        tracker.close()
    return page


def _introduce(bench: Bench, task: Task, run: RunDir) -> None:
    """Tell MLflow where the run comes from and what it reads."""
    bench.tracker.tags(tags_of(bench.config, run))
    bench.tracker.exhibit(run.marker)
    for dataset in datasets_of(bench.config, task):
        bench.tracker.dataset(dataset)


def _why(stage: Stage, bench: Bench, run: RunDir, fresh: Set[str]) -> str | None:
    """Why a stage is to be done, as `RunDir.undone` has it; None where it stands as it was made.

    fresh: stages that were done just now. A run of an earlier version has not noted what its
    stages were made from: that is done here. Raises InputError for data or a checkpoint that is
    not what it was.
    """
    name, mark = stage.name, fingerprint(bench.config, stage.name)
    inputs = inputs_of(bench.config, stage, bench.base, run)
    require_inputs(run, stage, mark, inputs)
    reason, manifest = run.undone(name, mark, inputs), run.manifest(name)
    if reason is None and manifest and manifest.inputs is None:
        gone = [one for one in stage.beside if Path(one).suffix and not (run.path / one).exists()]
        if gone or fresh & set(stage.needs):
            reason = f"{run.path / gone[0]} is missing" if gone else "what it needs was made anew"
        else:
            say(f"{name}: made by an earlier version, what it was made from is noted now")
            run.finish(name, mark, inputs, stage.beside)
    if reason:
        say(f"{name}: {reason}; made anew")
    return reason


def _do(stage: Stage, bench: Bench, task: Task, run: RunDir, reread: bool) -> None:
    """Do a stage, from what is whole of an earlier attempt."""
    config, name = bench.config, stage.name
    mark, inputs = fingerprint(config, name), inputs_of(config, stage, bench.base, run)
    if stage.judges and config.evaluate.split is Split.FINAL:
        models = digest([named.model.digest for named in run_models(run)])
        read_final(run.path, name, mark, reread, models)
    before = run.begun(name)
    if moved := run.begin(name, mark, inputs):
        same = before is not None and before.fingerprint == mark
        other = "from other results" if same else "with another config"
        say(f"{name}: made {other} before, now in {moved}")
    meter = Meter()
    with meter.stage(name), bench.tracker.nested(name, {}):
        stage.run(bench, task, run)
    note_stage(run, meter)
    run.finish(name, mark, inputs, stage.beside)


def fingerprint(config: Config, stage: str) -> str:
    """Digest of all that a stage depends on."""
    return config.fingerprint(*RECIPES[config.recipe].keys_of(stage))


def note_stage(run: RunDir, meter: Meter) -> None:
    """Add to what a stage took in earlier, interrupted attempts of this run."""
    path = run.path / STAGES_NOTE
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
