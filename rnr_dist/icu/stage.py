"""The stages of unlearning by epochs: memorise, icu, sweep; and any method, for those beside it.

In: the files of the stages before. Out: models.json, result.json, sweep.json. Invariant: what a
stage has finished within itself is a file, so that one that was interrupted goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from rnr_dist.bench import Bench
from rnr_dist.config.registry import method_class
from rnr_dist.errors import InputError
from rnr_dist.generate.requests import ReadLikelihood
from rnr_dist.icu.epochs import EpochRun, train_by_epochs
from rnr_dist.icu.job import Counted, Ending, EpochPlan
from rnr_dist.icu.leaving import Limits
from rnr_dist.icu.tuning import Trials
from rnr_dist.icu.unlearner import SHARED, EpochMethod, Unlearner
from rnr_dist.machine.cluster import trainings_at_once
from rnr_dist.run.directory import RunDir, read_json, write, write_json
from rnr_dist.run.progress import say
from rnr_dist.tasks.sequences import SequenceTask, general_windows, require_sequences
from rnr_dist.tasks.task import Task
from rnr_dist.train.collate import Example, texts
from rnr_dist.train.trainings import Trainings
from rnr_dist.types import NamedModel, TokenSequence

BASE, MEMORISED, CONTROL = "base", "memorised", "control"
NEVER = 2.0  # an EL that no model reaches: all epochs are run
Seen = TokenSequence | ReadLikelihood  # what memorising goes over


def memorise_stage(bench: Bench, task: Task, run: RunDir) -> None:
    """The model that knows the sequences, and the control that never saw those to be forgotten."""
    sequences, settings = require_sequences(task), bench.config.memorise
    path = run.stage("memorise") / "models.json"
    if not settings.enabled:
        write(path, [NamedModel(BASE, "reference", bench.base)])
        return
    rehearsed = general_windows(bench, sequences, settings.rehearse)
    say(f"rehearsed beside the sequences: {len(rehearsed)} windows of general text")
    others: list[Seen] = [*sequences.tuning * settings.repeats, *sequences.pool, *rehearsed]
    seen = [*sequences.forget * settings.repeats, *others]
    until = Ending("memorised", Limits(0, 0, settings.until, 1), settings.training.epochs)
    known = _memorise(bench, sequences, run, (MEMORISED, seen), until)
    passed, n = len(known.epochs) - 1, sequences.counting.n
    reached = float(np.mean(known.epochs[-1]["extraction"]))
    if reached < settings.least:
        raise InputError(
            f"memorise.training: mean EL_{n} is {reached:.3f} after {passed} epochs; expected "
            f"memorise.least {settings.least:g}: more epochs or a higher learning_rate"
        )
    say(f"memorised: mean EL_{n} {reached:.3f} in {passed} epochs")
    models = [
        NamedModel(BASE, "other", bench.base),
        NamedModel(MEMORISED, "reference", known.model),
    ]
    if settings.control:
        ending = replace(until, limits=Limits(0, 0, NEVER, 1), epochs=passed)
        never = _memorise(bench, sequences, run, (CONTROL, others), ending)
        models.append(NamedModel(CONTROL, "control", never.model))
    write(path, models)


def _memorise(
    bench: Bench,
    task: SequenceTask,
    run: RunDir,
    named: tuple[str, Sequence[Seen]],
    ending: Ending,
) -> EpochRun:
    """Train the base on what the model of this name has seen."""
    name, seen = named
    counted = Counted(replace(task.counting, denominator="generated"))
    return train_by_epochs(
        Trainings(bench, run.stage("memorise")),
        name,
        texts(Example(one.token_ids, 0) for one in seen),
        bench.config.memorise.training,
        bench.base,
        EpochPlan(task.forget, counted, ending),
    )


def icu_stage(bench: Bench, task: Task, run: RunDir) -> None:
    """The recipe's own method: its setting chosen on the tuning sequences, then unlearning."""
    folder, name = run.stage(SHARED), bench.config.own_method
    own = Unlearner.of(bench, require_sequences(task), run, method_class(name)(), folder)
    result = _unlearn(own)
    write(folder / "result.json", {"best": result.best, "limits": own.levels.average})
    write(folder / "models.json", [NamedModel(name, "step", result.model)])


def sweep_stage(bench: Bench, task: Task, run: RunDir) -> None:
    """Every place of `sweep` on the tuning sequences: the paper's Tables 2 and 5."""
    folder, config = run.stage("sweep"), bench.config
    method = method_class(config.sweep.method)()
    own = Unlearner.of(bench, require_sequences(task), run, method, folder)
    found = _trials(own).run(config.sweep.places())
    path = folder / "sweep.json"
    write(path, {"method": own.name, "limits": own.levels.average, "places": found})
    bench.tracker.exhibit(path)


def unlearn(
    bench: Bench, task: Task, run: RunDir, method: EpochMethod, stage: str = "baselines"
) -> EpochRun:
    """Choose a method's setting on the tuning sequences, then forget with it; `stage` is whose
    folder its files go to. Raises InputError where nothing is left to forget."""
    return _unlearn(Unlearner.of(bench, require_sequences(task), run, method, run.stage(stage)))


def _unlearn(own: Unlearner) -> EpochRun:
    bench = own.bench
    name, sequences = own.name, own.task.forget
    path = own.trainings.folder / f"{name}.json"
    if not path.exists():
        write_json(path, _trials(own).choose())
    training = bench.config.methods.of(name).trained_with(read_json(path)["chosen"])
    result = own.forget(name, sequences, training)
    first = result.epochs[0]
    if len(result.epochs) == 1:
        raise InputError(
            f"task.forget: all {len(sequences)} sequences count as forgotten before the first "
            f"epoch (mean EL {np.mean(first['extraction']):.3f}, MA "
            f"{np.mean(first['memorisation']):.3f}); expected sequences that the model knows"
        )
    for row in result.epochs:
        figures = {
            "EL": float(np.mean(row["extraction"])),
            "MA": float(np.mean(row["memorisation"])),
            "forgotten": float(sum(row["forgotten"])),
        }
        terms = {f"loss/{key}": value for key, value in row["terms"].items()}
        bench.tracker.metrics({**figures, **terms}, row["epoch"])
    say(f"{name}: epoch {result.best} of {len(result.epochs) - 1} is the best")
    return result


def _trials(own: Unlearner) -> Trials:
    config = own.bench.config
    _ = own.bench.ray
    settings = config.methods.of(own.name)
    return Trials(own, settings, own.trainings.folder, trainings_at_once(config))
