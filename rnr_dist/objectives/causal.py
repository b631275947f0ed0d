"""Causal language modelling: cross-entropy of the response tokens.

In: a causal LM and a right-padded batch. Out: one term, `nll`, in nats. Invariant: logits exist
only where a label does; with 49k tokens of vocabulary they would cost more than the model itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch.nn.functional import cross_entropy

from rnr_dist.train.collate import IGNORED, Example


class Causal:
    """Negative log-likelihood of each response token given all tokens before it."""

    needs: frozenset[str] = frozenset()

    def counts(self, examples: Sequence[Example]) -> dict[str, int]:
        return {"nll": sum(example.labels for example in examples)}

    def terms(self, model: Any, batch: Mapping[str, Any]) -> dict[str, tuple[Any, int]]:
        following = batch["labels"][:, 1:]
        valid = following != IGNORED
        logits = logits_at(model, batch["input_ids"], valid)
        nll = cross_entropy(logits.float(), following[valid], reduction="sum")
        return {"nll": (nll, int(valid.sum()))}


def logits_at(model: Any, input_ids: Any, positions: Any) -> Any:
    """(selected, vocabulary) logits of a transformers causal LM, PEFT around it or not.

    input_ids: (B, T), right-padded. positions: (B, T-1) bool, the places whose next token is
    asked for. Hidden states are selected on their way into the head, so that whatever the model
    does to its logits afterwards (scaling, soft caps) still happens. Causal attention never
    looks right, so right-padding needs no mask, and without one the fast kernel is used.
    """
    head = model.get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda _, inputs: (inputs[0][:, :-1][positions],))
    try:
        return model(input_ids=input_ids, use_cache=False).logits
    finally:
        hook.remove()
