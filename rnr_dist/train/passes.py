"""What objectives ask of a causal LM: losses of its labels, divergences, hidden states of a layer.

In: a transformers model, PEFT around it or not, and right-padded rows. Out: tensors with a
gradient. Invariant: nothing is computed that is not asked for; causal attention never looks right,
so right-padding needs no mask, and without one the fast kernel is used.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rnr_dist.errors import InputError
from rnr_dist.train.collate import IGNORED

# Functions import torch themselves: reading a config loads its methods, and with them this module.


def token_nll(trained: Any, rows: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    """-log p (nats) of each token with a label, its row, and the last hidden states (B, T, d).

    Logits exist only where a label does, and for one of `trained.head_parts` of the labels at a
    time: all of them in fp32 would cost more than the model itself (12 GiB for 8,192 tokens of a
    vocabulary of 128k). Where there are several parts, each is computed again in the backward pass.
    trained: a `trainable.Trained`, whose model may scale or cap what its head gives.
    """
    import torch
    from torch.nn.functional import cross_entropy
    from torch.utils.checkpoint import checkpoint

    model, parts = trained.model, trained.head_parts
    output = model.get_decoder()(input_ids=rows["input_ids"], use_cache=False)
    states, valid = output.last_hidden_state, predicted(rows)

    def losses(part: Any, wanted: Any) -> Any:
        return cross_entropy(logits_of(model, output, part).float(), wanted, reduction="none")

    asked = (states[:, :-1][valid], rows["labels"][:, 1:][valid])
    pieces = zip(*(one.tensor_split(parts) for one in asked), strict=True)
    if parts == 1:
        nll = losses(*next(pieces))
    else:
        nll = torch.cat([checkpoint(losses, *piece, use_reentrant=False) for piece in pieces])
    return nll, valid.nonzero()[:, 0], states


def logits_of(model: Any, output: Any, states: Any) -> Any:
    """(labels, vocabulary): what the model makes of (labels, d) states that its decoder gave.

    output: the decoder's. Within the call the decoder answers with these states instead of running,
    so whatever the model does before and after its head (scaling, soft caps) is its own code.
    """
    import torch

    decoder = model.get_decoder()
    answer = copy.copy(output)
    answer.last_hidden_state = states[None]
    own = vars(decoder).get("forward")
    decoder.forward = lambda *_, **__: answer
    try:
        ids = states.new_zeros((1, 1), dtype=torch.long)
        return model(input_ids=ids, use_cache=False).logits[0]
    finally:
        del decoder.forward
        if own is not None:
            decoder.forward = own


def last_states(model: Any, input_ids: Any) -> Any:
    """(B, T, d) hidden states that the head would read."""
    return model.get_decoder()(input_ids=input_ids, use_cache=False).last_hidden_state


def layer_states(model: Any, input_ids: Any, layer: int) -> Any:
    """(B, T, d) output of decoder layer `layer`, 0 the first; no later layer and no head runs."""
    import torch

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


def predicted(rows: Mapping[str, Any]) -> Any:
    """(B, T - 1) bool: the positions whose next token has a label."""
    return rows["labels"][:, 1:] != IGNORED


def label_states(model: Any, rows: Mapping[str, Any]) -> Any:
    """(labels, d) hidden states that the head would read to predict the labels, row by row."""
    return last_states(model, rows["input_ids"])[:, :-1][predicted(rows)]


def label_losses(
    head: Callable[[Any], Any],
    parts: Sequence[Any],
    targets: Any,
    before: tuple[Callable[[Any], Any], Any] | None = None,
    with_entropy: bool = False,
    ceilings: Any = None,
) -> tuple[Any, Any]:
    """Sums over labels: -log q(target), each at most its ceiling, and KL(p || q), nats, in fp32.

    head: logits of states. parts: (labels, d) states in parts. targets: (labels,). before: theta0's
    head and its states of the same labels, for p; without it the second sum is 0. ceilings:
    (labels,) or none. with_entropy: H(p, q) instead of KL, which is H(p) more. Logits live for a
    part at a time and are computed again in the backward pass.
    """
    import torch
    from torch.utils.checkpoint import checkpoint

    nll, divergence = parts[0].new_zeros((), dtype=torch.float32), parts[0].new_zeros(())
    first, many = before[0] if before else None, len(parts)
    others = before[1].tensor_split(many) if before else [None] * many
    ends = [None] * many if ceilings is None else ceilings.tensor_split(many)
    pieces = zip(parts, targets.tensor_split(many), others, ends, strict=True)
    for part, wanted, other, end in pieces:

        def losses(
            part: Any, wanted: Any = wanted, other: Any = other, end: Any = end
        ) -> tuple[Any, Any]:
            log_q = head(part).float().log_softmax(-1)
            lost = -log_q.gather(1, wanted[:, None])[:, 0]
            lost = lost.sum() if end is None else lost.clamp(max=end).sum()
            if first is None:
                return lost, log_q.new_zeros(())
            log_p = first(other).float().log_softmax(-1)
            gap = -log_q if with_entropy else log_p - log_q
            return lost, (log_p.exp() * gap).sum()

        here = checkpoint(losses, part, use_reentrant=False)
        nll, divergence = nll + here[0], divergence + here[1]
    return nll, divergence


def require_plain_head(model: Any, rows: Mapping[str, Any]) -> None:
    """Raises InputError where the model does more to its logits than its head does.

    `label_losses` asks the head alone, so that logits need not live all at once.
    """
    import torch

    with torch.no_grad():
        logits = model(input_ids=rows["input_ids"], use_cache=False).logits[:, :-1]
        head = model.get_output_embeddings()(label_states(model, rows))
    if not torch.allclose(logits[predicted(rows)].float(), head.float(), atol=1e-2, rtol=1e-2):
        raise InputError(
            f"model: {type(model).__name__} scales or caps its logits after its head; expected one "
            "whose logits are its head's alone"
        )


def part_losses(
    trained: Any, rows: Mapping[str, Any], before: bool = False, with_entropy: bool = False
) -> tuple[Any, Any]:
    """Sums over the labels of a part: -log q, each at most its ceiling where the rows have some,
    and KL (or H) against theta0 if it is asked for. trained: a `trainable.Trained`."""
    # theta0 first: nothing of the trained model's graph exists yet while it is switched off.
    other = (trained.reference_head, trained.reference_states(rows)) if before else None
    states = label_states(trained.model, rows)
    targets = rows["labels"][:, 1:][predicted(rows)]
    ends = rows["ceilings"][:, 1:][predicted(rows)] if "ceilings" in rows else None
    parts = states.tensor_split(trained.head_parts)
    return label_losses(trained.head, parts, targets, other, with_entropy, ends)


def log_probability(nll: Callable[..., tuple[Any, Any]], rows: Mapping[str, Any]) -> Any:
    """(B,) log probability of each row's response given its prompt, nats.

    nll: of each label of some rows, and its row.
    """
    lost, row = nll(rows)
    return lost.new_zeros(len(rows["labels"])).index_add(0, row, -lost)


def has_response(rows: Mapping[str, Any]) -> Any:
    """(B,) bool: rows with a label."""
    return (rows["labels"] != IGNORED).any(1)


def label_count(rows: Mapping[str, Any]) -> int:
    """Tokens that are learnt."""
    return int((rows["labels"] != IGNORED).sum())
