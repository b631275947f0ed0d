"""What each stage of an ICU run does, from the files of those before it to its own.

memorise -> icu -> evaluate -> baselines. In: config, data, run directory, machine, tracker. Out:
files in the stage's folder. Invariant: what a stage has finished within itself is a file, so that a
stage that was interrupted goes on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rnr_dist.bench import Machine
from rnr_dist.config.icu import BASE, CONTROL, MEMORISED, IcuConfig, IcuMethodName
from rnr_dist.errors import InputError
from rnr_dist.icu.data import IcuData
from rnr_dist.icu.forgotten import Limits, Unlearned
from rnr_dist.icu.levels import Levels, find_levels
from rnr_dist.run.codec import to_plain
from rnr_dist.run.directory import RunDir, read, read_json, read_rows, write, write_json, write_rows
from rnr_dist.run.progress import say
from rnr_dist.run.tracking import Tracker
from rnr_dist.types import ModelRef, Split, TokenSequence

if TYPE_CHECKING:
    from rnr_dist.generate.requests import ReadLikelihood
    from rnr_dist.icu.launch import EpochRun, EpochTrainings
    from rnr_dist.icu.pairing import Pair
    from rnr_dist.icu.tuning import Trials
    from rnr_dist.icu.unlearner import Unlearner

    Seen = TokenSequence | ReadLikelihood  # what memorising goes over


def memorise_stage(
    config: IcuConfig, data: IcuData, run: RunDir, machine: Machine, tracker: Tracker
) -> None:
    """The model that knows the sequences, and the control that never saw those to be forgotten."""
    from rnr_dist.train.collate import Example, texts

    folder = run.stage("memorise")
    base = machine.base
    models = {BASE: base, MEMORISED: base}
    settings = config.memorise
    if settings.enabled:
        trainings = _trainings(config, run, folder, machine, tracker)

        def memorise(name: str, seen: Sequence[Seen], until: float, epochs: int) -> Any:
            return trainings.run(
                name,
                data.forget,
                texts(Example(one.token_ids, 0) for one in seen),
                settings.training,
                base,
                Limits(0, 0, until, 1),
                "memorised",
                epochs,
            )

        rehearsed = _general_windows(config, data, machine, settings.rehearse)
        say(f"rehearsed beside the sequences: {len(rehearsed)} windows of general text")
        others: list[Seen] = [*data.tuning * settings.repeats, *data.pool, *rehearsed]
        known = memorise(
            MEMORISED,
            [*data.forget * settings.repeats, *others],
            settings.until,
            settings.training.epochs,
        )
        reached = float(np.mean(known.epochs[-1]["extraction"]))
        if reached < settings.least:
            raise InputError(
                f"memorise.training: mean EL_{config.task.n} is {reached:.3f} after "
                f"{len(known.epochs) - 1} epochs; expected memorise.least {settings.least:g}: more "
                "epochs or a higher learning_rate"
            )
        say(f"memorised: mean EL_{config.task.n} {reached:.3f} in {len(known.epochs) - 1} epochs")
        models[MEMORISED] = known.model
        if settings.control:
            never = memorise(CONTROL, others, 2.0, len(known.epochs) - 1)
            models[CONTROL] = never.model
    write(folder / "models.json", models)


def _general_windows(
    config: IcuConfig, data: IcuData, machine: Machine, most: int
) -> list[ReadLikelihood]:
    """Windows of general text to train on: memorising rehearses them, L_kl holds them."""
    from rnr_dist.config.schema import Perplexity
    from rnr_dist.measures.perplexity import windows

    if not most:
        return []
    length = config.task.max_tokens
    settings = Perplexity(window=length, stride=length, max_windows=most)
    return windows(data.general[Split.RETAIN], machine.tokenizer, settings)


def icu_stage(
    config: IcuConfig, data: IcuData, run: RunDir, machine: Machine, tracker: Tracker
) -> None:
    """Pairs, limits, and ICU itself: its setting chosen on the tuning sequences."""
    from rnr_dist.report.sequences import write_continuations

    folder = run.stage("icu")
    known = models_of(run)[MEMORISED]
    pairs = _paired(config, data, machine, folder)
    levels = find_levels(config, data, machine, known, folder)
    icu = _unlearner("icu", config, data, run, machine, tracker, pairs, levels, folder)
    result = _unlearn(icu, data, machine, folder)
    write(folder / "result.json", Unlearned(result.model, result.best, levels.average))
    for row in result.epochs:
        told = {
            "EL": float(np.mean(row["extraction"])),
            "MA": float(np.mean(row["memorisation"])),
            "forgotten": float(sum(row["forgotten"])),
        }
        tracker.metrics({**told, **{f"loss/{k}": v for k, v in row["terms"].items()}}, row["epoch"])
    tracker.artifact(write_continuations(data.forget, result, machine.tokenizer, config, folder))


def sweep_stage(
    config: IcuConfig, data: IcuData, run: RunDir, machine: Machine, tracker: Tracker
) -> None:
    """Every place of `sweep` on the tuning sequences: the paper's Tables 2 and 5."""
    from rnr_dist.report.sequences import sweep_table

    folder, shared = run.stage("sweep"), run.stage("icu")
    known = models_of(run)[MEMORISED]
    pairs = _paired(config, data, machine, shared)
    levels = find_levels(config, data, machine, known, shared)
    name, places = config.sweep.method, config.sweep.places()
    own = _unlearner(name, config, data, run, machine, tracker, pairs, levels, folder)
    found = _trials(own, data, machine, folder).run(places)
    for place in found:
        with tracker.nested(f"sweep {name}", place["overrides"]):
            tracker.metrics({k: float(v) for k, v in place.items() if isinstance(v, (int, float))})
    write_json(
        folder / "sweep.json", {"method": name, "limits": to_plain(levels.average), "places": found}
    )
    tracker.artifact(folder / "sweep.json")
    sweep_table(name, [*config.sweep.over], found)


def evaluate_stage(
    config: IcuConfig, data: IcuData, run: RunDir, machine: Machine, tracker: Tracker
) -> None:
    """Base, memorised model, control, others and result, on what stopping saw and did not see."""
    from rnr_dist.report.sequences import write_report
    from rnr_dist.weights.checkpoints import resolve_model

    models = dict(models_of(run))
    models["icu"] = read(run.path / "icu" / "result.json", Unlearned).model
    for name, model in config.evaluate.others.items():  # last: each takes engines of its own
        models[name] = resolve_model(model, config.trust_remote_code)
    folder = run.stage("evaluate")
    tracker.headline(judge_models(config, data, machine, tracker, models, folder)["icu"])
    for path in write_report(config, run, list(models), folder, folder / "summary.json"):
        tracker.artifact(path)


def baselines_stage(
    config: IcuConfig, data: IcuData, run: RunDir, machine: Machine, tracker: Tracker
) -> None:
    """The methods that ICU is compared with: one stopping rule, the same grid size, one table."""
    from rnr_dist.machine.cluster import trainings_at_once
    from rnr_dist.machine.threads import side_by_side
    from rnr_dist.report.sequences import write_report

    folder = run.stage("baselines")
    pairs = _paired(config, data, machine, run.path / "icu")
    known = models_of(run)[MEMORISED]
    levels = find_levels(config, data, machine, known, run.path / "icu")
    _ = machine.ray

    def one(name: IcuMethodName) -> EpochRun:
        with tracker.nested(f"method {name}", {}):
            own = _unlearner(name, config, data, run, machine, tracker, pairs, levels, folder)
            return _unlearn(own, data, machine, folder)

    names = config.methods.run
    results = side_by_side(one, names, trainings_at_once(config))
    models: dict[str, ModelRef] = {
        name: result.model for name, result in zip(names, results, strict=True)
    }
    judge_models(config, data, machine, tracker, models, run.path / "evaluate")
    order = [*models_of(run), *config.evaluate.others, "icu", *names]
    path = folder / "baselines.json"
    for written in write_report(config, run, order, run.path / "evaluate", path):
        tracker.artifact(written)


def models_of(run: RunDir) -> dict[str, ModelRef]:
    """The rows of the table that are no method."""
    return read(run.path / "memorise" / "models.json", dict[str, ModelRef])


def judge_models(
    config: IcuConfig,
    data: IcuData,
    machine: Machine,
    tracker: Tracker,
    models: Mapping[str, ModelRef],
    folder: Path,
) -> dict[str, dict[str, float]]:
    """Measures of each named model into `folder`, and their values."""
    from rnr_dist.icu.actors import similarity_of
    from rnr_dist.icu.judging import judge_model

    figures = {}
    with similarity_of(config, machine) as similarity:
        for name, model in models.items():
            with tracker.nested(f"evaluate {name}", {}):
                pool = machine.pool_of(model if name in config.evaluate.others else machine.base)
                found = judge_model(
                    config, data, pool, similarity, machine.tokenizer, model, folder, name
                )
                values = {key: measure.value for key, measure in found.measures.items()}
                figures[name] = {**values, "auc/nll": found.auc[0]}
                tracker.metrics(figures[name])
    return figures


def _trainings(
    config: IcuConfig, run: RunDir, folder: Path, machine: Machine, tracker: Tracker
) -> EpochTrainings:
    from rnr_dist.icu.launch import EpochTrainings

    return EpochTrainings(config, folder, tracker, lambda: machine.ray)


def _paired(
    config: IcuConfig, data: IcuData, machine: Machine, folder: Path
) -> dict[str, list[TokenSequence]]:
    """{id: its pairs} of the forget and the tuning sequences; `pairs.parquet` keeps them."""
    from rnr_dist.icu.actors import embedded
    from rnr_dist.icu.pairing import Pair, pair_up

    path = folder / "pairs.parquet"
    wanted = [*data.forget, *data.tuning]
    if not path.exists():
        _ = machine.ray
        texts = [sequence.text for sequence in [*wanted, *data.pool]]
        vectors = embedded(config.pairing.embedder, texts, config.workers.gpus_each > 0)
        found = pair_up(
            wanted,
            data.pool,
            (vectors[: len(wanted)], vectors[len(wanted) :]),
            config.pairing,
            config.workers.gpus_each > 0,
        )
        write_rows(path, found)
        write_json(folder / "pairs.json", _shown(found, [*wanted, *data.pool]))
        say(f"paired {len(wanted)} sequences, mean cosine {np.mean([p.cosine for p in found]):.2f}")
    by_id = {sequence.id: sequence for sequence in data.pool}
    pairs: dict[str, list[TokenSequence]] = {}
    for pair in read_rows(path, Pair):
        pairs.setdefault(pair.forget, []).append(by_id[pair.learn])
    return pairs


def _shown(pairs: Sequence[Pair], sequences: Sequence[TokenSequence]) -> list[dict[str, Any]]:
    text = {sequence.id: sequence.text for sequence in sequences}
    return [
        {"cosine": pair.cosine, "forget": text[pair.forget], "learn": text[pair.learn]}
        for pair in pairs
    ]


def _unlearner(
    name: IcuMethodName,
    config: IcuConfig,
    data: IcuData,
    run: RunDir,
    machine: Machine,
    tracker: Tracker,
    pairs: Mapping[str, Sequence[TokenSequence]],
    levels: Levels,
    folder: Path,
) -> Unlearner:
    from rnr_dist.icu.actors import scorer_name
    from rnr_dist.icu.unlearner import Unlearner

    refined = name == "icu" and config.refinement.enabled
    return Unlearner(
        name,
        config,
        pairs,
        data.pool,
        _general_windows(config, data, machine, config.methods.retained),
        models_of(run)[MEMORISED],
        levels,
        scorer_name(config) if refined else "",
        _trainings(config, run, folder, machine, tracker),
    )


def _trials(unlearner: Unlearner, data: IcuData, machine: Machine, folder: Path) -> Trials:
    from rnr_dist.icu.tuning import Trials
    from rnr_dist.machine.cluster import trainings_at_once
    from rnr_dist.measures.perplexity import windows

    config = unlearner.config
    _ = machine.ray
    return Trials(
        unlearner,
        getattr(config.methods, unlearner.name),
        data.tuning,
        list(windows(data.general[Split.SEARCH], machine.tokenizer, config.perplexity)),
        data.pool[: config.perplexity.max_windows],
        data.unseen,
        machine.pool,
        folder,
        trainings_at_once(config),
    )


def _unlearn(unlearner: Unlearner, data: IcuData, machine: Machine, folder: Path) -> EpochRun:
    """Choose the method's setting on the tuning sequences, then forget with it."""
    name = unlearner.name
    path = folder / f"{name}.json"
    if not path.exists():
        write_json(path, _trials(unlearner, data, machine, folder).choose())
    method = getattr(unlearner.config.methods, name)
    result = unlearner.forget(name, data.forget, method.trained_with(read_json(path)["chosen"]))
    first = result.epochs[0]
    if len(result.epochs) == 1:
        raise InputError(
            f"task.forget: all {len(data.forget)} sequences count as forgotten before the first "
            f"epoch (mean EL {np.mean(first['extraction']):.3f}, MA "
            f"{np.mean(first['memorisation']):.3f}); expected sequences that the model knows"
        )
    say(f"{name}: epoch {result.best} of {len(result.epochs) - 1} is the best")
    return result
