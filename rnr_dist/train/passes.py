"""What objectives ask of a causal LM: losses of its labels, divergences, hidden states of a layer.

In: a transformers model, PEFT around it or not, and right-padded rows. Out: tensors with a
gradient. Invariant: nothing is computed that is not asked for; causal attention never looks right,
so right-padding needs no mask, and without one the fast kernel is used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rnr_dist.errors import InputError
from rnr_dist.train.collate import IGNORED

# Functions import torch themselves: reading a config loads its methods, and with them this module.

# Parts that the positions of a pass go through the head in: a quarter of the logits at a time.
# A fixed number, whatever a batch holds, since each pass through the head is a collective (ZeRO-3).
HEAD_PARTS = 4


def token_nll(model: Any, rows: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    """-log p (nats) of each token with a label, its row, and the last hidden states (B, T, d).

    Logits exist only where a label does; with 49k tokens of vocabulary they would cost more than
    the model itself. Hidden states are selected on their way into the head, so that whatever the
    model does to its logits afterwards (scaling, soft caps) still happens.
    """
    from torch.nn.functional import cross_entropy

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
    states: Any,
    targets: Any,
    before: tuple[Callable[[Any], Any], Any] | None = None,
    with_entropy: bool = False,
    ceilings: Any = None,
) -> tuple[Any, Any]:
    """Sums over labels: -log q(target), each at most its ceiling, and KL(p || q), nats, in fp32.

    head: logits of states. states: (labels, d). targets: (labels,). before: theta0's head and its
    states of the same labels, for p; without it the second sum is 0. ceilings: (labels,) or none.
    with_entropy: H(p, q) instead
    of KL, which is H(p) more. Logits live for a part of the labels at a time and are computed again
    in the backward pass.
    """
    import torch
    from torch.utils.checkpoint import checkpoint

    nll, divergence = states.new_zeros((), dtype=torch.float32), states.new_zeros(())
    first = before[0] if before else None
    others = before[1].tensor_split(HEAD_PARTS) if before else [None] * HEAD_PARTS
    ends = [None] * HEAD_PARTS if ceilings is None else ceilings.tensor_split(HEAD_PARTS)
    states_in_parts, targets_in_parts = (x.tensor_split(HEAD_PARTS) for x in (states, targets))
    for part, wanted, other, end in zip(
        states_in_parts, targets_in_parts, others, ends, strict=True
    ):

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
    return label_losses(trained.head, states, targets, other, with_entropy, ends)


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
