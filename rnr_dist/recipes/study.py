"""A study: the same config for several seeds and variants, with equal budgets, in one table.

In: a study's file and folder. Out: a run directory a seed and variant, and `study.json`. Invariant:
the config and the commit are frozen before the first run reads `final`; a study that is started
again goes on with the runs that are not done, and another config of it is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rnr_dist.config.file import load_config, load_study
from rnr_dist.config.methods import way_of
from rnr_dist.config.schema import Config
from rnr_dist.config.shipped import STUDIES, config_path
from rnr_dist.config.study import Study
from rnr_dist.errors import InputError
from rnr_dist.machine.cluster import ray_session
from rnr_dist.machine.trials import Search, run_trials
from rnr_dist.measures.results import read_results
from rnr_dist.recipes.pipeline import (
    Check,
    fingerprint,
    no_check,
    open_run,
    recipe_of,
    run_pipeline,
)
from rnr_dist.report.comparison import ends
from rnr_dist.report.study import StudyRow, write_study
from rnr_dist.run.directory import RunDir, read_json, write_json
from rnr_dist.run.lock import held
from rnr_dist.run.progress import progress_bar, say
from rnr_dist.run.seal import NOTE, commit, final_readings, read_final, rereading_note
from rnr_dist.tasks.task import make_task
from rnr_dist.types import digest

FROZEN = "frozen.json"


@dataclass(frozen=True)
class Cell:
    """One run of a study: a variant ("" for the config as it is), a seed, and the run's folder."""

    variant: str
    seed: int
    config: Config
    folder: Path


def study_cells(path: Path, folder: Path) -> tuple[Study, list[Cell]]:
    """The study in a file, and its runs. Raises InputError, also for budgets that are not equal."""
    path = config_path(path, STUDIES)
    study = load_study(path)
    cells = []
    for variant, overrides in (study.variants or {"": {}}).items():
        for seed in study.seeds:
            config = _config(study, path, overrides, seed)
            recipe, until = recipe_of(config, study.until)
            if "evaluate" not in [stage.name for stage in recipe.until(until)]:
                raise InputError(f"{path}: until {until} evaluates no model; expected evaluate")
            if until == "baselines":
                require_equal_budgets(config)
            name = "-".join(filter(None, [variant, f"seed-{seed}"]))
            cells.append(Cell(variant, seed, config, folder.absolute() / name))
    return study, cells


def require_equal_budgets(config: Config) -> None:
    """Raises InputError where the methods of a config would not get the same number of places.

    What is merged gets the tokens and candidates of the recipe's own method, whatever its grid. By
    epochs, the most of which are the same for all, each place of a grid is a training of its own.
    """
    places = {
        name: len(config.methods.of(name).grid)
        for name in (config.own_method, *config.compared)
        if way_of(name, config.way) == "epochs"
    }
    if len(set(places.values())) > 1:
        told = ", ".join(f"methods.{name}.grid {count}" for name, count in places.items())
        raise InputError(
            f"{config.name}: methods have different budgets: found {told} places; expected the "
            "same number for each"
        )


def run_study(path: Path, folder: Path, reread: bool = False, check: Check = no_check) -> Path:
    """Run what is not done of a study and write its table; returns the file `study.json`."""
    study, cells = study_cells(path, folder)
    # Its runs too: they work in other processes, but this one decides what is done in them.
    with held(folder, *(cell.folder for cell in cells)):
        mark = freeze(cells, folder, study.until, reread)
        missing = [number for number, cell in enumerate(cells) if not _done(cell, study.until)]
        say(f"study {study.study}: {len(cells)} runs, {len(missing)} of them to do")
        if missing:
            with ray_session(cells[0].config):
                _run_cells(study, cells, missing, Cells(tuple(cells), study.until, reread, check))
        if _judged(folder):
            read_final(folder, "study", mark, reread)
        rows = [row for cell in cells for row in _rows(cell, study.until)]
        notes = [note for note in (rereading_note(folder), _commits_note(cells)) if note]
        return write_study(folder / "study.json", study.study, rows, notes)


def freeze(cells: Sequence[Cell], folder: Path, until: str, reread: bool) -> str:
    """Write down commit and configs before a run reads `final`; returns the digest of the configs.

    Raises InputError where a run has read it under other ones and `reread` is off.
    """
    marks = [[cell.variant, fingerprint(cell.config, until)] for cell in cells]
    mark, known = digest(marks), folder / FROZEN
    before = read_json(known)["digest"] if known.exists() else mark
    if _judged(folder):  # by an earlier attempt, maybe of other configs
        read_final(folder, "study", before, reread)
        read_final(folder, "study", mark, reread)
    if before != mark or not known.exists():
        configs = {cell.folder.name: cell.config.content() for cell in cells}
        write_json(known, {"commit": commit(), "digest": mark, "configs": configs})
    return mark


def _judged(folder: Path) -> bool:
    """Whether a run below the study's folder has read `final`."""
    return any(final_readings(note.parent) for note in folder.glob(f"*/{NOTE}"))


def _commits_note(cells: Sequence[Cell]) -> str:
    """What the table says where runs were judged by different commits; "" where they were not."""
    read = {one.commit[:12] for cell in cells for one in final_readings(cell.folder)}
    return (
        f"runs were judged by different commits: {', '.join(sorted(read))}" if len(read) > 1 else ""
    )


@dataclass(frozen=True)
class Cells:
    """The runs as they reach a trial of Ray Tune, which runs one of them whole."""

    cells: tuple[Cell, ...]
    until: str
    reread: bool
    check: Check

    def run(self, number: int) -> None:
        cell = self.cells[number]
        task = make_task(cell.config)
        begun = (cell.folder / "config.json").exists()
        run = open_run(cell.folder, cell.config, begun, self.reread)
        run_pipeline(cell.config, task, run, self.until, self.check, self.reread)


def _run_cells(study: Study, cells: list[Cell], missing: list[int], work: Cells) -> None:
    """One trial a run, `study.at_once` of them at the same time."""
    from ray.tune import Callback

    def trial(setting: dict[str, Any], work: Cells) -> None:
        import ray
        from ray import tune

        # What a trial starts has to fit into what the trial holds, and engines don't. What a task
        # starts that was placed by default may be anywhere in the cluster.
        placed = {"num_cpus": 0, "max_retries": 0, "scheduling_strategy": "DEFAULT"}
        ray.get(ray.remote(Cells.run).options(**placed).remote(work, setting["given"]))
        tune.report({"done": 1})

    name = f"{study.study}-{digest(missing)}"
    storage = cells[0].folder.parent / "tune"
    with progress_bar(f"study {study.study}: runs", len(missing)) as advance:

        class Shown(Callback):
            done = 0

            def on_trial_complete(
                self, iteration: int, trials: list[Any], trial: Any, **info: Any
            ) -> None:
                self.done += 1
                advance(self.done)

        search = Search(name, storage, study.at_once, callbacks=(Shown(),))
        run_trials(trial, missing, search, work=work)


def _done(cell: Cell, until: str) -> bool:
    return RunDir(cell.folder).done(until, fingerprint(cell.config, until))


def _config(study: Study, path: Path, overrides: Mapping[str, Any], seed: int) -> Config:
    """The config of one run: a variant's keys, the seed, and what grows with it."""
    origin = path.parent / Path(study.config).expanduser()
    settings = {**overrides, "seed": seed}
    content: dict[str, Any] = load_config(origin, settings=settings).model_dump(mode="json")
    for key, step in study.by_seed.items():
        value: Any = content
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if not isinstance(value, int | float):
            raise InputError(f"{path}: by_seed.{key}: found {value!r} there, expected a number")
        settings[key] = value + step * seed
    return load_config(origin, settings=settings)


def _rows(cell: Cell, until: str) -> list[StudyRow]:
    """The rows of a finished run's table; of the steps the last one, which is the result.

    It has its method's name: which step came last differs from seed to seed.
    """
    place = "baselines" if until == "baselines" else "evaluate"
    found = read_results(cell.folder / place / "results.json")
    results = ends(found, cell.config.own_method)
    return [StudyRow(cell.variant, cell.seed, row, results) for row in results.rows]
