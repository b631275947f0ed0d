"""Whether a training's layers are there, and are ones that can be trained and composed.

In: a checkpoint folder and a `training` section. Out: nothing, or one InputError. Invariant: what
passes here is what PEFT wraps and what composition finds again; no weight is loaded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rnr_dist.config.training import Training
from rnr_dist.errors import InputError
from rnr_dist.run.extras import lacking
from rnr_dist.weights.skeleton import (
    Layer,
    head_is_last,
    linear_layers,
    linear_modules,
    skeleton,
)


def require_trained(
    folder: Path, training: Training, key: str, trust_remote_code: bool = False
) -> None:
    """Raises InputError where the training under `key` is to train a layer that is not there, or
    that is no linear layer with a weight of its own, and where its losses would be wrong."""
    layers = linear_layers(folder, trust_remote_code)
    model = skeleton(folder, trust_remote_code)
    if training.objective.head_alone and model is not None and not head_is_last(model):
        raise InputError(
            f"{key}.objective: found {training.objective.name}, which asks a model's head alone, "
            f"but {folder} scales or caps its logits beside it; expected another method or model"
        )
    if training.frozen == "nf4":
        _require_quantisable(folder, model, f"{key}.frozen")
    _require_shapes(folder, layers, model)
    require_layers(folder, training.target_modules, f"{key}.target_modules", layers, model)
    require_layer_numbers(folder, training.layers or (), f"{key}.layers", layers)


def _require_quantisable(folder: Path, model: Any, key: str) -> None:
    """Raises InputError where bitsandbytes is not here or the model's layers are none of its."""
    if lacking(["bitsandbytes"]):
        raise InputError(
            f"{key}: found nf4 and no package bitsandbytes; expected pip install bitsandbytes, on "
            "every worker too"
        )
    turned = [name for name, _, transposed in linear_modules(model) if transposed] if model else []
    if turned:
        raise InputError(
            f"{key}: found nf4, but {turned[0]} of {folder} is a Conv1D, which bitsandbytes does "
            "not hold; expected plain"
        )


def _require_shapes(folder: Path, layers: Mapping[str, Layer], model: Any) -> None:
    """Raises InputError where the files hold a layer in another shape than config.json says."""
    for name, module, transposed in linear_modules(model) if model is not None else ():
        said = tuple(module.weight.shape)[:: -1 if transposed else 1]
        if name in layers and layers[name].shape != said:
            raise InputError(
                f"model: found {layers[name].key} of shape {layers[name].shape} in {folder}, but "
                f"by its config.json it has {said}; expected weights that fit"
            )


def require_layers(
    folder: Path, wanted: Sequence[str], key: str, layers: Mapping[str, Layer], model: Any = None
) -> None:
    """Raise InputError for the first name in `wanted` that means no linear layer, or another part.

    key: the config's, for the sentence. layers, model: `linear_layers` of the folder, `skeleton`.
    """
    modules = layers if model is None else dict(model.named_modules())
    known = sorted({layer.rsplit(".", 1)[-1] for layer in layers})
    for name in wanted:
        meant = named(name, modules)
        others = [module for module in meant if module not in layers]
        if meant and not others:
            continue
        found = f"{name!r} is no layer of {folder}"
        if others:
            found = f"{name!r} means {others[0]} of {folder}, {_what(model, others[0])}"
        raise InputError(f"{key}: {found}; expected some of {', '.join(known)}")


def require_layer_numbers(
    folder: Path, wanted: Sequence[int], key: str, layers: Iterable[str]
) -> None:
    """Raise InputError for the first number in `wanted` that no decoder layer has."""
    known = {int(part) for name in layers for part in name.split(".") if part.isdigit()}
    for number in wanted:
        if number not in known:
            raise InputError(
                f"{key}: {number} is no decoder layer of {folder}; expected some of "
                f"{min(known, default=0)} to {max(known, default=0)}"
            )


def named(name: str, modules: Iterable[str]) -> list[str]:
    """The modules that a name of `target_modules` means: by the ends of theirs, as in PEFT."""
    return [module for module in modules if f".{module}".endswith(f".{name}")]


def _what(model: Any, name: str) -> str:
    """What a module is that is no linear layer with a weight in the files."""
    module = model.get_submodule(name)
    if module is model.get_output_embeddings():
        return "which has no weight of its own but the input embedding's"
    if not hasattr(module, "in_features") and not hasattr(module, "nf"):
        return f"which is a {type(module).__name__} and no linear layer"
    return "whose weight the files do not hold as plain numbers under that name"
