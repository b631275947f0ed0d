"""Everything that can be known before anything costs time; `rnr check` prints it.

In: a config. Out: its task, with all data loaded, or one InputError. Invariant: loads no model,
starts no Ray.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rnr_dist.commands.estimate import estimate, trainings_of
from rnr_dist.commands.lengths import require_texts_fit
from rnr_dist.commands.trainings import check_sweep, require_costs, require_full, require_trainings
from rnr_dist.commands.work import work_of
from rnr_dist.config.file import load_cluster, load_config
from rnr_dist.config.methods import way_of
from rnr_dist.config.schema import Config
from rnr_dist.config.unlearning import Pairing, Sweep
from rnr_dist.data.sources import load_contexts
from rnr_dist.errors import InputError
from rnr_dist.generate.backend import backend_of
from rnr_dist.machine.cluster import check_room, cluster_joined, joined_nodes, this_node
from rnr_dist.machine.placement import Node, place
from rnr_dist.machine.placement import described as placement_of
from rnr_dist.methods.method import make_method, require_served, require_trainable
from rnr_dist.reveal.embeddings import require_embeddings
from rnr_dist.run.extras import BRINGS, RUN, asked_for, lacking, require_packages
from rnr_dist.run.places import check_temporary_folder
from rnr_dist.run.precision import compute_dtype
from rnr_dist.score.oracles import ORACLE_PACKAGES
from rnr_dist.tasks.prompts import NoTokenizerError, require_chat_template, require_tokenizer
from rnr_dist.tasks.task import Task, make_task
from rnr_dist.weights.checkpoints import (
    check_model,
    checkpoint_here,
    resolve_embedder,
    weight_files,
)
from rnr_dist.weights.embedded import EMBEDDERS, MODELS, converted_folder
from rnr_dist.weights.node_cache import node_folder, require_room

# Which data a recipe works on, as tasks say that they give it.
ASKED = {
    "reveal-and-release": "contexts",
    "teach-reveal-release": "lessons",
    "unlearn-sequences": "sequences",
}


def check_inputs(config: Config, methods: bool = False, elsewhere: bool = False) -> Task:
    """The task, once model, embedder, backend, room and data are there. Raises InputError.

    methods: also those that `rnr baselines` puts beside the recipe's own. elsewhere: it shall not
    run on this machine, whose room is not asked.
    """
    _check_cpu_weights(config)
    elsewhere = elsewhere or bool(os.environ.get("RAY_ADDRESS"))
    if not elsewhere:  # a cluster's nodes have temporary folders of their own
        check_temporary_folder()
    models = [name for name in (config.model, config.reveal.writer) if name]
    for model in models:
        check_model(model)
    _check_encoders(config)
    here = checkpoint_here(config.model)
    if not elsewhere:
        check_room(config, _weights_bytes(here) if here else 0)
    task = _task(config)
    _require_served(config, task, [config.own_method])
    if methods:
        check_methods(config, task)
    if config.reveal.writer:  # late: transformers is loaded to know who serves a model
        _check_served(config, "reveal.writer", config.reveal.writer)
    for name, model in config.evaluate.others.items():
        _check_served(config, f"evaluate.others.{name}", model)
    if here and elsewhere:
        check_architecture(config, here)
        require_texts_fit(config, task, here)
    elif here:
        check_checkpoint(config, here, task)
    return task


def _task(config: Config) -> Task:
    """The task. Raises InputError for one that the recipe cannot work on."""
    task = make_task(config)
    if ASKED[config.recipe] not in task.gives:
        raise InputError(
            f"task {config.task.name}: gives no {ASKED[config.recipe]}, which the recipe "
            f"{config.recipe} works on; expected another recipe"
        )
    return task


def check_methods(config: Config, task: Task) -> None:
    """Raises InputError where a method beside the recipe's own cannot run."""
    _require_served(config, task, config.compared)
    if any("external" in make_method(name).needs for name in config.compared):
        load_contexts(config.methods.external, "external")
    if here := checkpoint_here(config.model):
        require_trainable(config, here)
        for name in config.compared:
            settings = config.methods.found(name)
            for key, training in settings.trainings(f"methods.{name}").items() if settings else ():
                if training.parameters == "full":
                    require_full(config, here, key)


def _require_served(config: Config, task: Task, methods: Iterable[str]) -> None:
    for name in methods:
        require_served(make_method(name), task, way_of(name, config.way))


def _check_served(config: Config, key: str, model: str) -> None:
    """Raises InputError for a model that is not there or that no backend serves."""
    try:
        if (folder := check_model(model)) and checkpoint_here(model):
            trusted = config.trust_remote_code
            backend = backend_of(config.engines, folder, trusted).backend
            require_tokenizer(folder, trusted)
            if key == "reveal.writer":
                require_embeddings(folder, backend, trusted)
        elif folder:  # its config alone, from the hub
            backend_of(config.engines, folder, config.trust_remote_code)
    except InputError as error:
        raise InputError(f"{key}: {error}") from error


def check_checkpoint(config: Config, folder: Path, task: Task) -> None:
    """Raises InputError where a checkpoint on this disk is not what config and data need."""
    _check_space(config, folder)
    check_architecture(config, folder)
    require_texts_fit(config, task, folder)


def check_swept(config: Config, folder: Path | None, task: Task) -> None:
    """`check_checkpoint` for who wants the sweep here. folder: None where the model comes later."""
    if folder:
        check_checkpoint(config, folder, task)
    # Of a cluster's memory nobody tells.
    there = None if os.environ.get("RAY_ADDRESS") else nodes_here(config)
    check_sweep(config, task, folder, there)


def check_engine(config: Config, folder: Path) -> None:
    """Raises InputError where no engine takes a checkpoint, or where this machine has no room."""
    _check_cpu_weights(config)
    backend_of(config.engines, folder, config.trust_remote_code)
    _check_space(config, folder)


def _check_space(config: Config, folder: Path) -> None:
    """Raises InputError where this machine lacks memory for the engines, or disk."""
    size = _weights_bytes(folder)
    check_room(config, size)
    if config.engines.weights == "reload" and not os.environ.get("RAY_ADDRESS"):
        require_room(node_folder("weights"), size)


def check_architecture(config: Config, folder: Path) -> None:
    """Raises InputError where what the config does with its model would fail or be wrong on it."""
    trusted = config.trust_remote_code
    backend = backend_of(config.engines, folder, trusted).backend
    tokenizer = require_tokenizer(folder, trusted)
    require_trainings(config, folder, trainings_of(config))
    if config.way == "epochs":
        from rnr_dist.icu.torch_reader import require_readable  # loads torch

        require_readable(folder, trusted)
        return
    if config.reveal.query == "chat":
        require_chat_template(tokenizer, folder)
    if not config.reveal.writer:
        require_embeddings(folder, backend, trusted)


@dataclass(frozen=True)
class Described:
    """What a check is told of instead of what is here: a file with a cluster, a model's config."""

    cluster: Path | None = None
    model: Path | None = None


def check_config(path: Path, overrides: list[str], described: Described = Described()) -> list[str]:
    """Lines on what was found. Raises InputError for the first problem."""
    return told_of(load_config(path, overrides), str(path), described)


def told_of(config: Config, origin: str, described: Described = Described()) -> list[str]:
    """`check_config` of a config that is read; `origin` is where from."""
    lines = [f"config  {config.name}: {origin}", f"recipe  {config.recipe}"]
    nodes = named_nodes(described.cluster) if described.cluster else None
    task: Task | None
    if described.model:
        folder: Path | None = described_model(described.model)
        assert folder is not None
        lines.append(f"model   {config.model}, by {described.model}: weights were not looked at")
        task = check_described(config, folder)
    else:
        lines.append(f"model   {config.model}")
        task = check_inputs(config, elsewhere=nodes is not None)
        folder = checkpoint_here(config.model) or check_model(config.model)
    lines += data_lines(config, task)
    engines = config.engines
    if folder:
        choice = backend_of(engines, folder, config.trust_remote_code)
        lines.append(f"backend {choice.backend}: {choice.why}")
    kind = f"{engines.gpus_each:g} GPU(s)" if engines.gpus_each else f"{engines.cpus_each} core(s)"
    dtype = compute_dtype(engines.dtype, engines.gpus_each > 0)
    grown = f" to {engines.greatest}" if engines.greatest > engines.count else ""
    lines.append(f"engines {engines.count}{grown} of {kind}, {dtype}")
    there = nodes_here(config) if nodes is None else (str(described.cluster), nodes)
    if config.sweep != Sweep():  # who writes one wants it
        check_sweep(config, task, folder, there)
    return [*lines, *cost_lines(config, task, folder, there), *_lacks(config, task)]


def data_lines(config: Config, task: Task | None) -> list[str]:
    """What data was found, and which methods can run on it."""
    if task is None:
        return ["data    was not looked at: it needs a tokenizer, and none is here"]
    lines = task.describe()
    lines += [f"row     {name}: {model}" for name, model in config.evaluate.others.items()]
    try:
        check_methods(config, task)
        lines.append(f"methods {', '.join(config.compared)}")
    except InputError as error:  # of no concern to who runs the recipe's own method alone
        lines.append(f"methods can't run: {error}")
    return lines


def cost_lines(
    config: Config, task: Task | None, folder: Path | None, there: tuple[str, Sequence[Node]]
) -> list[str]:
    """Who lives where and when on these nodes, and what it costs.

    folder: of the model; None where its config.json is not here yet. there: what a sentence calls
    the nodes, and these. Raises InputError for what would wait for ever, or has not the memory.
    """
    where, nodes = there
    placed = place(config, nodes, where)
    lines = [
        f"place   {phase.name}: "
        + ", ".join(f"{one.name} {one.count} x {one.each:g} {one.kind}" for one in phase.actors)
        for phase in placed.phases
    ]
    if folder is None:
        return [*lines, "memory  is told once the model's config.json is here"]
    cost = estimate(config, folder)
    require_costs(cost, there)
    work = work_of(config, task) if task else []
    return [*lines, *cost.lines(work, placed.yielding)]


def first_lines(config: Config, task: Task) -> list[str]:
    """What a run says of its cost before anything is started.

    On a cluster who lives where is asked once the run has joined it, not before.
    """
    folder = checkpoint_here(config.model)
    if not os.environ.get("RAY_ADDRESS"):
        return cost_lines(config, task, folder, nodes_here(config))
    return estimate(config, folder).lines(work_of(config, task)) if folder else []


def nodes_here(config: Config) -> tuple[str, list[Node]]:
    """What a sentence calls the place where the config would run now, and its nodes."""
    if not os.environ.get("RAY_ADDRESS"):
        return "this machine", [this_node(config)]
    with cluster_joined():
        return "the cluster", joined_nodes()


def named_nodes(path: Path) -> list[Node]:
    """The nodes of a described cluster."""
    return placement_of(load_cluster(path))


def described_model(path: Path) -> Path:
    """The folder of a model's config.json. Raises InputError for another file."""
    if path.name != "config.json" or not path.is_file():
        raise InputError(f"--model-config: found {path}; expected a model's config.json")
    return path.parent


def check_described(config: Config, folder: Path) -> Task | None:
    """The task, and as much of the model as its config.json tells. Raises InputError.

    None where the task needs a tokenizer and none lies beside the file.
    """
    _check_cpu_weights(config)
    backend_of(config.engines, folder, config.trust_remote_code)
    if config.way == "epochs" and not (folder / "tokenizer_config.json").exists():
        return None
    try:
        task = _task(config.model_copy(update={"model": str(folder)}))
    except NoTokenizerError:
        return None
    _require_served(config, task, [config.own_method])
    return task


def _lacks(config: Config, task: Task | None) -> list[str]:
    """A line on the packages that a run would lack here, where it would."""
    missing = lacking(needed_packages(config, task)) if task else []
    told = f"{', '.join(missing)}; expected {asked_for(missing)}" if missing else ""
    return [f"lacks   to run it here: found no package {told}"] if told else []


def needed_packages(config: Config, task: Task) -> list[str]:
    """The modules that a run of the config works with, beside those of a plain installation."""
    # A section of settings is told by its name.
    oracles = [str(one) for one in (task.oracle, getattr(getattr(task, "told", None), "judge", ""))]
    encoders = [config.embedder] if config.way == "merge" else [config.pairing.embedder]
    encoders += [config.refinement.scorer] if config.way == "epochs" else []
    found = [*BRINGS[RUN], *(ORACLE_PACKAGES[name] for name in oracles if name in ORACLE_PACKAGES)]
    found += [EMBEDDERS[name] for name in encoders if name in EMBEDDERS]
    models = [config.model, config.reveal.writer or "", *config.evaluate.others.values()]
    if any(name in MODELS and not converted_folder(name).exists() for name in models):
        found.append("gguf")
    return found


def require_installed(config: Config, task: Task) -> None:
    """Raises InputError where this machine lacks a package that a run works with."""
    require_packages(needed_packages(config, task), config.name)


def _check_cpu_weights(config: Config) -> None:
    if config.engines.weights == "lora" and not config.engines.gpus_each:
        raise InputError(
            "engines.weights: found lora on CPUs, where vLLM 0.32 ends when it reads likelihoods "
            "beside adapters; expected reload, or engines.gpus_each above 0"
        )


def _check_encoders(config: Config) -> None:
    """Raises InputError for an embedder, or BERTScore's encoder, that is not there."""
    if config.way == "merge":
        _encoder(config.reveal.embedder, "reveal.embedder")
        wanted = config.pairing.embedder
        if wanted not in (Pairing().embedder, config.embedder):
            raise InputError(
                f"pairing.embedder: found {wanted}, but the recipe {config.recipe} pairs by "
                f"reveal.embedder; expected {config.embedder}"
            )
        return
    _encoder(config.pairing.embedder, "pairing.embedder")
    scorer = _encoder(config.refinement.scorer, "refinement.scorer")
    if scorer.is_absolute() and not (scorer / "config.json").exists():
        raise InputError(
            f"refinement.scorer: found no config.json in {scorer}; expected embedded:minilm, an "
            "encoder's folder or a hub name"
        )


def _encoder(name: str, key: str) -> Path:
    """Folder or hub name of the encoder that stands under `key`; "." where its package is lacking,
    which `require_installed` tells."""
    if lacking([EMBEDDERS[name]] if name in EMBEDDERS else []):
        return Path()
    try:
        return Path(resolve_embedder(name))
    except InputError as error:
        raise InputError(f"{key}: {error}") from error


def _weights_bytes(folder: Path) -> int:
    """Size of a checkpoint's weights."""
    return sum(path.stat().st_size for path in weight_files(folder))
