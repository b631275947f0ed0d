"""What objectives ask of a causal LM: losses of its labels, hidden states of a layer.

In: a transformers model, PEFT around it or not, and right-padded rows. Out: tensors with a
gradient. Invariant: nothing is computed that is not asked for; causal attention never looks right,
so right-padding needs no mask, and without one the fast kernel is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from rnr_dist.errors import InputError
from rnr_dist.train.collate import IGNORED


def token_nll(model: Any, rows: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    """-log p (nats) of each token with a label, its row, and the last hidden states (B, T, d).

    Logits exist only where a label does; with 49k tokens of vocabulary they would cost more than
    the model itself. Hidden states are selected on their way into the head, so that whatever the
    model does to its logits afterwards (scaling, soft caps) still happens.
    """
    following = rows["labels"][:, 1:]
    valid = following != IGNORED
    states = []

    def select(_: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        states.append(inputs[0])
        return (inputs[0][:, :-1][valid],)

    hook = model.get_output_embeddings().register_forward_pre_hook(select)
    try:
        logits = model(input_ids=rows["input_ids"], use_cache=False).logits
    finally:
        hook.remove()
    nll = cross_entropy(logits.float(), following[valid], reduction="none")
    return nll, valid.nonzero()[:, 0], states[0]


def last_states(model: Any, input_ids: Any) -> Any:
    """(B, T, d) hidden states that the head would read."""
    return model.get_decoder()(input_ids=input_ids, use_cache=False).last_hidden_state


def layer_states(model: Any, input_ids: Any, layer: int) -> Any:
    """(B, T, d) output of decoder layer `layer`, 0 the first; no later layer and no head runs."""
    decoder = model.get_decoder()
    name, layers = next(
        (name, child)
        for name, child in decoder.named_children()
        if isinstance(child, torch.nn.ModuleList)
    )
    if layer >= len(layers):
        raise InputError(f"objective.layer {layer}: the model has {len(layers)} decoder layers")
    states = []

    def note(_: Any, __: Any, output: Any) -> None:
        states.append(output[0] if isinstance(output, tuple) else output)

    hook = layers[layer].register_forward_hook(note)
    setattr(decoder, name, layers[: layer + 1])
    try:
        decoder(input_ids=input_ids, use_cache=False)
    finally:
        setattr(decoder, name, layers)
        hook.remove()
    return states[0]
