"""Start a run, or go on with one: what `rnr run` and `rnr_dist.run` share.

In: a validated config, and how far to go. Out: the run directory. Invariant: everything that can be
known before is checked before the directory is made; one driver works in it at a time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from rnr_dist.config.schema import Config
from rnr_dist.errors import InputError
from rnr_dist.run.extras import BRINGS, RUN, require_packages

RUNS = Path("runs")
# The stage that a command goes to; None: the recipe's last.
STAGES = {
    "run": None,
    "reveal": "reveal",
    "release": "release",
    "evaluate": "evaluate",
    "baselines": "baselines",
    "icu": "icu",
    "sweep": "sweep",
}
# What is entered for as long as a run in that directory goes on.
Around = Callable[[Path], AbstractContextManager[None]]


def at_rest(place: Path) -> AbstractContextManager[None]:
    """Nothing is done around a run."""
    return contextlib.nullcontext()


@dataclass(frozen=True)
class Where:
    """The run directory to make, or to go on with; whether its sealed split may be read again."""

    run: Path | None = None
    resume: Path | None = None
    reread: bool = False

    def require_one(self) -> None:
        """Raises InputError where both are named, or the one to go on with is no run."""
        if self.run and self.resume:
            raise InputError("--run and --resume: found both, expected one")
        if self.resume and not (self.resume / "config.json").exists():
            raise InputError(f"--resume {self.resume}: no run directory (no config.json)")


def start(
    command: str,
    config: Config,
    where: Where,
    around: Around = at_rest,
) -> tuple[Path, str]:
    """Run everything up to the stage of that command; returns the run directory and what
    `run_pipeline` does: the end of the address of its page in MLflow.

    Raises InputError for what is wrong before anything costs time, and for an unknown command.
    """
    from rnr_dist.commands.check import (
        check_checkpoint,
        check_inputs,
        check_swept,
        first_lines,
        require_installed,
    )
    from rnr_dist.run.lock import held
    from rnr_dist.run.places import require_writable
    from rnr_dist.run.progress import say
    from rnr_dist.weights.checkpoints import checkpoint_here

    if command not in STAGES:
        raise InputError(f"run: found {command!r}, expected one of {', '.join(STAGES)}")
    where.require_one()
    task = check_inputs(config, methods=command == "baselines")
    check = check_checkpoint
    if command == "sweep":
        check = check_swept
        check(config, checkpoint_here(config.model), task)
    require_installed(config, task)
    # Only now: the stages of all recipes load torch and Ray.
    from rnr_dist.recipes.pipeline import open_run, recipe_of, run_folder, run_pipeline

    recipe, stage = recipe_of(config, STAGES[command])
    if command == "icu":  # the whole picture, of the recipe that has this stage
        stage = recipe.last
    path = where.resume or where.run or run_folder(RUNS, config.name)
    require_writable(path, "the run directory")
    with held(path), around(path):
        directory = open_run(path, config, where.resume is not None, where.reread)
        say(f"run directory {directory.path}")
        for line in first_lines(config, task):
            say(line)
        page = run_pipeline(config, task, directory, stage, check, where.reread)
    return directory.path, page


def start_study(file: Path, folder: Path | None, reread: bool, around: Around = at_rest) -> Path:
    """Run a study in a folder, by default runs/STUDY; returns its table. Raises InputError."""
    from rnr_dist.commands.check import check_checkpoint, check_inputs, require_installed
    from rnr_dist.config.file import load_study
    from rnr_dist.run.places import require_writable

    place = folder or RUNS / load_study(file).study
    require_writable(place, "--folder")
    require_packages(BRINGS[RUN], "study")  # the recipes load them
    from rnr_dist.recipes.study import run_study, study_cells

    found, cells = study_cells(file, place)
    for cell in cells:
        require_installed(
            cell.config, check_inputs(cell.config, methods=found.until == "baselines")
        )
    with around(place):
        return run_study(file, place, reread, check_checkpoint)
