"""Everything that can be known before anything costs time; `rnr check` prints it.

Invariant: loads no model, starts no Ray; each problem is an InputError with one sentence.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from rnr_dist.cluster import check_room
from rnr_dist.config import Config, RunConfig
from rnr_dist.config_file import load_any_config
from rnr_dist.config_icu import IcuConfig
from rnr_dist.config_training import Training
from rnr_dist.data.sources import load_contexts
from rnr_dist.errors import InputError
from rnr_dist.generate.backend import Choice, backend_of
from rnr_dist.icu.data import IcuData, load_icu_data
from rnr_dist.icu.pairing import check_exclusion
from rnr_dist.models import (
    check_model,
    checkpoint_here,
    require_layer_numbers,
    require_layers,
    resolve_embedder,
    resolve_model,
    weight_files,
)
from rnr_dist.precision import compute_dtype
from rnr_dist.tasks.toxicity import TaskData, load_task


def check_inputs(config: Config) -> TaskData:
    """The task's data, once model, embedder and room are there. Raises InputError."""
    models = [name for name in (config.model, config.reveal.writer) if name]
    for model in models:
        check_model(model)
    _check_cpu_weights(config)
    resolve_embedder(config.reveal.embedder)
    here = checkpoint_here(config.model)
    check_room(config, weights_bytes(here) if here else 0)
    if here:
        check_layers(config, here)
        check_chat_template(config, here)
    data = load_task(config.task, config.evaluate.split)
    for model in models:  # last, since transformers is loaded for it
        _check_backend(config, model)
    return data


def check_checkpoint(config: RunConfig, folder: Path) -> None:
    """Raises InputError where a checkpoint on this disk is not what the config needs."""
    backend_of(config.engines, folder, config.trust_remote_code)
    check_room(config, weights_bytes(folder))
    if isinstance(config, IcuConfig):
        check_icu_layers(config, folder)
    elif isinstance(config, Config):
        check_layers(config, folder)
        check_chat_template(config, folder)


def check_icu_inputs(config: IcuConfig) -> IcuData:
    """An ICU run's data, once model, embedder, scorer and room are there. Raises InputError."""
    from transformers import AutoTokenizer

    check_model(config.model)
    _check_cpu_weights(config)
    _encoder(config.pairing.embedder, "pairing.embedder")
    _check_scorer(config)
    here = checkpoint_here(config.model)
    check_room(config, weights_bytes(here) if here else 0)
    base = _checkpoint(config.model, config)
    backend_of(config.engines, base, config.trust_remote_code)
    check_icu_layers(config, base)
    tokenizer = AutoTokenizer.from_pretrained(base, trust_remote_code=config.trust_remote_code)
    data = load_icu_data(config, tokenizer)
    check_exclusion([*data.forget, *data.tuning], data.pool, config.pairing)
    for name, model in config.evaluate.others.items():
        _check_other(f"evaluate.others.{name}", model, tokenizer, config)
    return data


def _check_backend(config: RunConfig, model: str) -> Choice | None:
    """What the model's engines run on; None where it is known once the model is unpacked."""
    folder = check_model(model)
    return backend_of(config.engines, folder, config.trust_remote_code) if folder else None


def _checkpoint(name: str, config: IcuConfig) -> Path:
    """The folder of a model; one that lies on this disk is not read for it."""
    return checkpoint_here(name) or Path(resolve_model(name, config.trust_remote_code).checkpoint)


def _check_other(key: str, model: str, tokenizer: Any, config: IcuConfig) -> None:
    """Raises InputError unless `model` reads the same token ids."""
    from transformers import AutoTokenizer

    try:
        _check_backend(config, model)
        folder = _checkpoint(model, config)
    except InputError as error:
        raise InputError(f"{key}: {error}") from error
    try:
        other = AutoTokenizer.from_pretrained(folder, trust_remote_code=config.trust_remote_code)
    except (OSError, ValueError) as error:
        raise InputError(f"{key}: found no tokenizer in {model}; expected one beside it") from error
    if other.get_vocab() != tokenizer.get_vocab():
        raise InputError(
            f"{key}: found {model} with a vocabulary of {len(other)} tokens that is not the one of "
            f"{config.model} ({len(tokenizer)}); expected the same, since sequences are token ids"
        )


def _encoder(name: str, key: str) -> Path:
    """Folder or hub name of the encoder that stands under `key`."""
    try:
        return Path(resolve_embedder(name))
    except InputError as error:
        raise InputError(f"{key}: {error}") from error


def _check_scorer(config: IcuConfig) -> None:
    scorer = _encoder(config.refinement.scorer, "refinement.scorer")
    if scorer.is_absolute() and not (scorer / "config.json").exists():
        raise InputError(
            f"refinement.scorer: found no config.json in {scorer}; expected embedded:minilm, an "
            "encoder's folder or a hub name"
        )


def check_icu_layers(config: IcuConfig, checkpoint: Path) -> None:
    """Raises InputError where a method is to train a layer that the checkpoint has not."""
    for name in ("icu", *config.methods.run):
        training = getattr(config.methods, name).training
        if training.parameters != "full":
            require_trained(checkpoint, training, f"methods.{name}.training")


def _check_cpu_weights(config: RunConfig) -> None:
    if config.engines.weights == "lora" and not config.engines.gpus_each:
        raise InputError(
            "engines.weights: found lora on CPUs, where vLLM 0.32 ends when it reads likelihoods "
            "beside adapters; expected reload, or engines.gpus_each above 0"
        )


def check_baselines(config: Config) -> None:
    """Raises InputError for what `rnr baselines` alone reads and trains, hours after its start."""
    if "pem_external" in config.baselines.methods:
        load_contexts(config.baselines.external, "external")
    here = checkpoint_here(config.model)
    if here:
        check_baseline_layers(config, here)


def check_baseline_layers(config: Config, checkpoint: Path) -> None:
    """`check_layers` for the methods of `baselines`."""
    for name in config.baselines.methods:
        training = getattr(config.baselines, name).training
        require_trained(checkpoint, training, f"baselines.{name}.training")


def check_layers(config: Config, checkpoint: Path) -> None:
    """Raises InputError where an adapter is to train a layer that the checkpoint has not."""
    for role in ("forget", "retain"):
        require_trained(checkpoint, getattr(config.release, role), f"release.{role}")


def require_trained(checkpoint: Path, training: Training, key: str) -> None:
    """`check_layers` for the training that stands under `key`."""
    require_layers(checkpoint, training.target_modules, f"{key}.target_modules")
    require_layer_numbers(checkpoint, training.layers or (), f"{key}.layers")


def check_chat_template(config: Config, checkpoint: Path) -> None:
    """Raises InputError where `reveal.query` is `chat` and the checkpoint has no template."""
    if config.reveal.query != "chat":
        return
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(
        checkpoint, trust_remote_code=config.trust_remote_code
    )
    if not tokenizer.chat_template:
        raise InputError(
            f"reveal.query: found chat, but {checkpoint} has no chat template; expected a model "
            "with one, or preamble or instruction_input_output"
        )


def check_config(path: Path, overrides: list[str]) -> list[str]:
    """Lines on what was found. Raises InputError for the first problem."""
    config = load_any_config(path, overrides)
    lines = [f"config  {config.name}: {path}", f"model   {config.model}"]
    if isinstance(config, IcuConfig):
        sets = check_icu_inputs(config)
        for name in ("forget", "pool", "unseen", "tuning"):
            lines.append(f"data    {len(getattr(sets, name)):5d} sequences in {name}")
        for split, passages in sets.general.items():
            if passages:
                lines.append(f"data    {len(passages):5d} passages of general text in {split}")
        for name in ("questions", "dialogues"):
            lines.append(f"data    {len(getattr(sets, name)):5d} {name}")
        for name, model in config.evaluate.others.items():
            lines.append(f"row     {name}: {model}")
    else:
        data = check_inputs(config)
        groups = Counter((context.group, context.split) for context in data.contexts)
        for (group, split), count in sorted(groups.items()):
            lines.append(f"data    {count:5d} {group} contexts in {split}")
        texts = Counter((passage.domain, passage.split) for passage in data.in_domain)
        texts += Counter((passage.domain, passage.split) for passage in data.out_of_domain)
        for (domain, split), count in sorted(texts.items()):
            lines.append(f"data    {count:5d} {domain} passages in {split}")
        try:
            check_baselines(config)
            lines.append(f"methods {', '.join(config.baselines.methods)}")
        except InputError as error:  # of no concern to who runs R&R alone
            lines.append(f"methods can't run: {error}")
    engines = config.engines
    kind = f"{engines.gpus_each:g} GPU(s)" if engines.gpus_each else f"{engines.cpus_each} core(s)"
    lines.append(
        f"engines {engines.count} of {kind}, {compute_dtype(engines.dtype, engines.gpus_each > 0)}"
    )
    if choice := _check_backend(config, config.model):
        lines.append(f"backend {choice.backend}: {choice.why}")
    return lines


def weights_bytes(folder: Path) -> int:
    """Size of a checkpoint's weights."""
    return sum(path.stat().st_size for path in weight_files(folder))
