"""How large a model is: parameters, widths, layers, and what a training of it trains.

In: a checkpoint folder, of which its config.json is enough. Out: a `Shape` and `TrainedPart`s.
Invariant: counted on the model without weights, so they hold for every architecture that
transformers knows.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rnr_dist.config.training import Training
from rnr_dist.errors import InputError
from rnr_dist.weights.skeleton import linear_modules, skeleton
from rnr_dist.weights.targets import named


@dataclass(frozen=True)
class Shape:
    """parameters: each counted once, a tied head not at all. Widths in numbers: `hidden` of the
    residual stream, `query` and `key_value` of all heads together, `inner` of the MLP. gated: its
    MLP multiplies two products (Llama). eager: transformers has no fused attention for it
    (GPT-Neo), so a training keeps the scores of each of its `heads`."""

    parameters: int
    vocabulary: int
    hidden: int
    layers: int
    query: int
    key_value: int
    inner: int
    gated: bool
    heads: int = 0
    eager: bool = False


@dataclass(frozen=True)
class TrainedPart:
    """parameters: that are trained. inputs: widths of what the trained layers read, summed over
    the layers of one decoder layer."""

    parameters: int
    inputs: int


def shape_of(folder: str | Path, trust_remote_code: bool = False) -> Shape:
    """The shape of a checkpoint. Raises InputError where its config.json tells none."""
    model = skeleton(folder, trust_remote_code)
    if model is None:
        raise InputError(
            f"{folder}: its code is not known here, so its size is not; expected an architecture "
            "that transformers knows"
        )
    config = model.config.get_text_config()
    heads, hidden = config.num_attention_heads, config.hidden_size
    width = getattr(config, "head_dim", None) or hidden // heads
    shared = getattr(config, "num_key_value_heads", None) or heads
    told = (getattr(config, name, None) for name in ("intermediate_size", "ffn_dim", "n_inner"))
    return Shape(
        parameters=sum(weight.numel() for weight in model.parameters()),
        vocabulary=config.vocab_size,
        hidden=hidden,
        layers=config.num_hidden_layers,
        query=heads * width,
        key_value=shared * width,
        inner=next((size for size in told if size), 4 * hidden),
        gated=any("gate" in name for name, _, _ in linear_modules(model)),
        heads=heads,
        eager=config._attn_implementation == "eager",
    )


def trained_of(
    folder: str | Path, training: Training, trust_remote_code: bool = False
) -> TrainedPart:
    """What a training trains of a checkpoint.

    A LoRA of rank r on a layer (out, in) has r (in + out) parameters (Hu et al. 2021,
    arXiv:2106.09685, section 4.1).
    """
    model = skeleton(folder, trust_remote_code)
    assert model is not None, "asked after `shape_of`"
    modules = {name: module.weight.shape for name, module, _ in linear_modules(model)}
    layers = shape_of(folder, trust_remote_code).layers
    if training.parameters == "full":
        return TrainedPart(sum(weight.numel() for weight in model.parameters()), 0)
    meant = {name for target in training.target_modules for name in named(target, modules)}
    wanted = training.layers
    chosen = [
        modules[name]
        for name in meant
        if wanted is None or any(part in map(str, wanted) for part in name.split("."))
    ]
    turned = {name for name, _, transposed in linear_modules(model) if transposed}
    inputs = sum(modules[name][0 if name in turned else 1] for name in meant)
    if training.parameters == "matrices":
        return TrainedPart(sum(out * into for out, into in chosen), inputs // layers)
    return TrainedPart(training.rank * sum(map(sum, chosen)), inputs // layers)
