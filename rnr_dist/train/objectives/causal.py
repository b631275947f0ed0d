"""Causal language modelling: cross-entropy of the response tokens.

In: items of one `text`. Out: one term, `nll`, in nats, a mean over response tokens. Invariant: a
token's loss depends on nothing but its own sequence up to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rnr_dist.config.training import CausalObjective
from rnr_dist.train.collate import Item
from rnr_dist.train.passes import token_nll

if TYPE_CHECKING:
    from rnr_dist.train.trainable import Trained

DEFAULT = CausalObjective()


class Causal:
    """Negative log-likelihood of each response token given all tokens before it."""

    remembered: tuple[str, ...] = ()

    parts: Mapping[str, tuple[int, int]] = {"text": (1, 1)}

    def __init__(self, settings: CausalObjective = DEFAULT):
        pass

    def counts(self, items: Sequence[Item]) -> dict[str, int]:
        return {"nll": sum(text.labels for item in items for text in item["text"])}

    def terms(
        self, trained: Trained, batch: Mapping[str, Mapping[str, Any]]
    ) -> dict[str, tuple[Any, int]]:
        nll, _, _ = token_nll(trained, batch["text"])
        return {"nll": (nll.sum(), len(nll))}
