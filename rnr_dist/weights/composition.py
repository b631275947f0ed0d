"""Eq. 1 turned into weights: Phi(t) = Phi(0) + sum of coefficient x LoRA delta, exactly.

In: model references and PEFT adapter folders. Out: one stacked adapter, merged weights or a whole
checkpoint folder. Invariant: deltas are summed in fp32 over the pristine checkpoint and rounded to
its dtype once, so no step of Eq. 1 inherits the rounding of the one before.
"""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.nn.functional import pad

from rnr_dist.errors import InputError
from rnr_dist.run.digests import checksum
from rnr_dist.run.directory import read_json, replacing_folder
from rnr_dist.types import Adapter, ModelRef, Side, Term, digest
from rnr_dist.weights.folders import ADAPTER_CONFIG as CONFIG
from rnr_dist.weights.folders import ADAPTER_WEIGHTS as WEIGHTS
from rnr_dist.weights.folders import COMPANIONS, require_content, weight_files
from rnr_dist.weights.skeleton import Layer, linear_layers, linear_modules

Shapes = Mapping[str, tuple[int, ...]]
Factors = dict[str, tuple[torch.Tensor, torch.Tensor]]

LORA_KEY = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight")
# PEFT options under which an adapter's delta is no longer alpha / r times B A.
OTHER_DELTAS = (
    "alpha_pattern",
    "alora_invocation_tokens",
    "layer_replication",
    "use_qalora",
    "use_bdlora",
)
# Initialisations that leave the checkpoint alone; others (PiSSA, OLoRA...) also change it.
PLAIN_INITS = (True, False, None, "gaussian", "eva", "orthogonal")
PLAIN_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def load_adapter(path: str | Path) -> dict[str, tuple[torch.Tensor, torch.Tensor, float]]:
    """{module: (A, B, scaling)} of a PEFT LoRA folder: A (r, in), B (out, r), fp32.

    The delta of a module is scaling * B @ A, scaling = alpha / r, or alpha / sqrt(r) for rsLoRA.
    `fan_in_fan_out` says how the model holds the weight, not how A and B lie: both are the same.
    Raises InputError where the folder is no plain LoRA (DoRA, biases, other layers' weights...).
    """
    folder = Path(path)
    config = _adapter_config(folder)
    try:
        weights = load_file(folder / WEIGHTS)
    except SafetensorError as error:
        raise InputError(
            f"{folder / WEIGHTS}: found a damaged file ({error}); expected LoRA weights"
        ) from error
    sides: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in weights.items():
        match = LORA_KEY.fullmatch(key)
        if match is None:
            raise InputError(f"{folder}: found the tensor {key}; expected LoRA weights alone")
        sides.setdefault(match["module"], {})[match["side"]] = tensor.float()
    factors = {}
    for module, pair in sorted(sides.items()):
        shapes = {side: tuple(tensor.shape) for side, tensor in sorted(pair.items())}
        match shapes:
            case {"A": (int(rank), _), "B": (_, int(columns))} if rank == columns:
                divisor = math.sqrt(rank) if config.get("use_rslora") else rank
                factors[module] = pair["A"], pair["B"], config["lora_alpha"] / divisor
            case _:
                raise InputError(f"{folder}: {module} has {shapes}; expected A (r, in), B (out, r)")
    return factors


def save_adapter(
    folder: Path,
    factors: Factors,
    *,
    alpha: float,
    base: str,
    trained_on: str,
    side: Side,
) -> Adapter:
    """Write `factors` ({module: (A, B)}, one rank r for all) as a PEFT LoRA in fp32.

    `alpha` is lora_alpha: the deltas are alpha / r * B @ A. `base` is the checkpoint that PEFT
    loads it onto, `trained_on` the digest of the model that it was trained on. An existing folder
    is replaced.
    """
    ranks = {a.shape[0] for a, _ in factors.values()}
    if len(ranks) != 1:
        raise ValueError(f"{folder}: found ranks {sorted(ranks)}; expected one rank")
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": ranks.pop(),
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted(factors),
        "inference_mode": True,
    }
    tensors = {
        f"base_model.model.{module}.lora_{side}.weight": tensor.detach().cpu().float().contiguous()
        for module, pair in factors.items()
        for side, tensor in zip("AB", pair, strict=True)
    }
    with replacing_folder(folder) as aside:
        save_file(tensors, aside / WEIGHTS, metadata={"format": "pt"})
        (aside / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return Adapter(str(folder.absolute()), adapter_digest(folder), trained_on, side)


def exact_factors(deltas: Mapping[str, torch.Tensor]) -> tuple[Factors, int]:
    """{module: (A, B)} with B @ A equal to each (out, in) delta, bit for bit, and their rank.

    The shorter side's factor is the identity. The rank is the largest min(out, in); factors of
    less are padded with zeros, because PEFT scales by alpha over each module's own rank.
    """
    factors = {}
    for module, delta in deltas.items():
        out, columns = delta.shape
        identity = torch.eye(min(out, columns), dtype=delta.dtype, device=delta.device)
        factors[module] = (delta, identity) if out <= columns else (identity, delta)
    rank = max(a.shape[0] for a, _ in factors.values())
    return {module: padded(a, b, rank) for module, (a, b) in factors.items()}, rank


def adapter_digest(path: str | Path) -> str:
    """Identity of an adapter's deltas: its weights and what scales them."""
    folder = Path(path)
    config = _adapter_config(folder)
    scale = [float(config["lora_alpha"]), bool(config.get("use_rslora"))]
    return digest([checksum(folder / WEIGHTS), scale])


def is_whole(made: Adapter | ModelRef) -> bool:
    """Whether the folder of an adapter, or of a checkpoint, holds what its digest was taken of."""
    try:
        if isinstance(made, ModelRef):
            require_content(made)
            return True
        return adapter_digest(made.path) == made.digest
    except InputError:
        return False


def adapter_base(path: str | Path) -> str:
    """What the adapter's own config calls the checkpoint that it is loaded onto; "" if nothing."""
    return _adapter_config(Path(path)).get("base_model_name_or_path") or ""


def stack(terms: Iterable[Term], shapes: Shapes | None = None) -> Factors:
    """{module: (A, B)} with B @ A equal to the sum of the terms' deltas of each module.

    The A_i lie above each other, (sum r_i, in); the c_i s_i B_i side by side, (out, sum r_i).
    Raises InputError for an adapter that changed since its digest was taken, or that does not fit
    `shapes` ({module: (out, in)} of the checkpoint; by default the terms before it).
    """
    known = dict(shapes or {})
    downs: dict[str, list[torch.Tensor]] = {}
    ups: dict[str, list[torch.Tensor]] = {}
    for term in terms:
        path = term.adapter.path
        found = adapter_digest(path)
        if found != term.adapter.digest:
            raise InputError(f"{path}: found weights {found}; expected {term.adapter.digest}")
        for module, (a, b, scaling) in load_adapter(path).items():
            shape = (b.shape[0], a.shape[1])
            expected = known.get(module) if shapes is not None else known.setdefault(module, shape)
            if shape != expected:
                raise InputError(
                    f"{path}: found a delta {shape} for {module}; expected "
                    f"{expected or 'a module that the model holds as an unquantised weight'}"
                )
            downs.setdefault(module, []).append(a)
            ups.setdefault(module, []).append(term.coefficient * scaling * b)
    return {module: (torch.cat(downs[module]), torch.cat(ups[module], dim=1)) for module in downs}


def adapter_pair(one: Adapter, other: Adapter) -> tuple[Factors, Factors]:
    """The two adapters' own deltas as {module: (A, scaling * B)}, for a comparison by module.

    Raises InputError where either changed since its digest was taken, where a module that both
    have differs in shape, or where they share none.
    """
    first, second = stack([Term(1.0, one)]), stack([Term(1.0, other)])
    for module in sorted(first.keys() & second.keys()):
        expected, found = (
            (factors[module][1].shape[0], factors[module][0].shape[1])
            for factors in (first, second)
        )
        if found != expected:
            raise InputError(
                f"{other.path}: found a delta {found} for {module}; expected {expected}, as in "
                f"{one.path}"
            )
    if not first.keys() & second.keys():
        raise InputError(
            f"{other.path}: found {_few(second)}; expected a module of {one.path}, as in "
            f"{_few(first)}"
        )
    return first, second


def padded(a: torch.Tensor, b: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(A, B) of a higher rank with the same product: A gets rows of zeros, B columns."""
    missing = rank - a.shape[0]
    return pad(a, (0, 0, 0, missing)), pad(b, (0, missing))


def checkpoint_shapes(folder: str | Path) -> dict[str, tuple[int, ...]]:
    """{module: (out, in)} of a checkpoint's linear layers (`linear_layers`)."""
    return {module: layer.shape for module, layer in linear_layers(folder).items()}


def merge(ref: ModelRef) -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
    """(file name, weights) of each safetensors file of the composed model, one at a time.

    Weights are in the checkpoint's dtype, under its own keys. Raises InputError before the first
    file, also where the checkpoint is not the one that the reference names.
    """
    require_content(ref)
    layers = linear_layers(ref.checkpoint)
    factors = stack(ref.terms, {module: layer.shape for module, layer in layers.items()})
    for file in weight_files(Path(ref.checkpoint)):
        weights = load_file(file)
        _add(weights, layers, factors)
        yield file.name, weights


def add_to_model(
    model: torch.nn.Module,
    terms: Iterable[Term],
    gathered: Callable[[torch.nn.Module], AbstractContextManager[Any]] = nullcontext,
) -> None:
    """Add the terms to the pristine weights of a loaded transformers model, in place, each on its
    own device; a head tied to the embeddings is refused.

    gathered: a context in which a module's weights are whole, where several processes share them.
    """
    modules, layers = {}, {}
    for name, module, transposed in linear_modules(model):
        if module.weight.dtype in PLAIN_DTYPES:
            # What DeepSpeed has divided tells its shape by another name.
            shape = tuple(getattr(module.weight, "ds_shape", module.weight.shape))
            layers[name] = Layer(name, shape[::-1] if transposed else shape, transposed)
            modules[name] = module
    factors = stack(terms, {module: layer.shape for module, layer in layers.items()})
    for name, pair in factors.items():
        with gathered(modules[name]):
            _add({name: modules[name].weight}, layers, {name: pair})


def materialise(ref: ModelRef, folder: Path) -> None:
    """Write the composed model as a plain checkpoint with the base's tokenizer, config and shards.

    transformers and vLLM's `reload_weights` read it; 1.2 s for 135M parameters on one core. An
    existing folder is replaced.
    """
    with replacing_folder(folder) as aside:
        for name, weights in merge(ref):
            save_file(weights, aside / name, metadata={"format": "pt"})
        for pattern in (*COMPANIONS, "*.py"):
            for file in Path(ref.checkpoint).glob(pattern):
                shutil.copyfile(file, aside / file.name)


@torch.no_grad()
def _add(
    weights: Mapping[str, torch.Tensor], layers: Mapping[str, Layer], factors: Factors
) -> None:
    """Add the deltas of the layers that `weights` holds, {key: tensor}."""
    for module, (a, b) in factors.items():
        layer = layers[module]
        if layer.key in weights:
            weight = weights[layer.key]
            change = b.to(weight.device) @ a.to(weight.device)
            weight.copy_(weight.float() + (change.T if layer.transposed else change))


def _few(factors: Factors) -> str:
    names = sorted(factors)
    return ", ".join(names[:2]) + (f" and {len(names) - 2} more" if names[2:] else "") or "nothing"


def _adapter_config(folder: Path) -> dict[str, Any]:
    """The adapter's PEFT config; InputError where it describes anything but a plain LoRA."""
    if not ((folder / CONFIG).is_file() and (folder / WEIGHTS).is_file()):
        raise InputError(f"{folder}: is no adapter; expected {CONFIG} and {WEIGHTS}")
    config = read_json(folder / CONFIG)
    if not isinstance(config, dict):
        raise InputError(f"{folder / CONFIG}: found no mapping; expected the config of a LoRA")
    odd = [key for key in OTHER_DELTAS if config.get(key)]
    if config.get("init_lora_weights") not in PLAIN_INITS:
        odd.append("init_lora_weights")
    if config.get("peft_type") != "LORA" or odd:
        found = ", ".join(f"{key} {config[key]}" for key in odd) or config.get("peft_type")
        raise InputError(f"{folder}: found an adapter with {found}; expected a plain LoRA")
    if not isinstance(config.get("lora_alpha"), int | float):
        raise InputError(
            f"{folder / CONFIG}: found lora_alpha {config.get('lora_alpha')!r}; expected a number"
        )
    return config
