"""Frozen weights in four bits, a LoRA above them: QLoRA (Dettmers et al. 2023, arXiv:2305.14314).

In: a composed model. Out: the same with its linear layers as bitsandbytes' nf4. Invariant: what
computes stays in the model's own number format; embeddings, head and what is trained are as they
were.
"""

from __future__ import annotations

from typing import Any

from rnr_dist.weights.skeleton import linear_modules


def quantise(model: Any, device: Any) -> None:
    """Make the linear layers of `model` but its head nf4, in place and one by one, on `device`.

    Blocks of 64 weights share a scale, and the scales are quantised too (double quantisation,
    section 3 of the paper).
    """
    from bitsandbytes.nn import Linear4bit, Params4bit

    head = model.get_output_embeddings()
    for name, layer, _ in list(linear_modules(model)):
        if layer is head:
            continue
        weight = layer.weight.detach()
        packed = Linear4bit(
            layer.in_features,
            layer.out_features,
            bias=False,
            compute_dtype=weight.dtype,
            quant_type="nf4",
            device="meta",
        )
        packed.weight = Params4bit(
            weight, requires_grad=False, quant_type="nf4", compress_statistics=True
        ).to(device)
        packed.bias = layer.bias
        model.set_submodule(name, packed)
    # By this PEFT knows that it is to wrap bitsandbytes' layers.
    model.is_loaded_in_4bit = True
