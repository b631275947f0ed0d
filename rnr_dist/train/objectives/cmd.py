"""CMD's training (Tang et al., 2024): speak as the clean response, and away from the toxic ones.

In: items of one `positive` and up to three `negative` examples. Out: `nll` of the positive, nats a
token; `contrast`, a mean over items with a negative: -log of the positive's share of e^(cos/tau),
cos between the mean last hidden state of the positive's prompt and that of each response after its
own prompt. Invariant: an item without a negative has no `contrast`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.nn.functional import normalize

from rnr_dist.config.objectives import CmdObjective
from rnr_dist.train.collate import IGNORED, Item
from rnr_dist.train.passes import last_states, token_nll
from rnr_dist.train.trainable import Trained


class Cmd:
    """Cross-entropy of the positive and its InfoNCE against the negatives.

    The anchor is the prompt, so that a context calls for the clean response. It is every token
    that is not learnt: a sequence's first one at least.
    """

    remembered: tuple[str, ...] = ()

    def __init__(self, settings: CmdObjective):
        self.settings = settings
        self.roles: dict[str, tuple[int, int]] = {
            "positive": (1, 1),
            "negative": (0, settings.negatives),
        }

    def counts(self, items: Sequence[Item]) -> dict[str, int]:
        contrasted = [
            any(example.labels for example in item["positive"])
            and any(example.labels for example in item["negative"])
            for item in items
        ]
        return {
            "nll": sum(example.labels for item in items for example in item["positive"]),
            "contrast": sum(contrasted),
        }

    def terms(
        self, trained: Trained, batch: Mapping[str, Mapping[str, Any]]
    ) -> dict[str, tuple[Any, int]]:
        positive, negative = batch["positive"], batch["negative"]
        nll, _, states = token_nll(trained.model, positive)
        others = last_states(trained.model, negative["input_ids"])
        learnt, rejected = positive["labels"] != IGNORED, negative["labels"] != IGNORED
        anchor = mean_direction(states, positive["attention_mask"].bool() & ~learnt)
        clean = (anchor * mean_direction(states, learnt)).sum(1, keepdim=True)
        toxic = anchor @ mean_direction(others, rejected).T

        items = torch.arange(len(anchor), device=anchor.device)
        own = (items[:, None] == negative["owner"]) & rejected.any(1)
        cosines = torch.cat([clean, toxic.masked_fill(~own, -torch.inf)], dim=1)
        shares = (cosines / self.settings.temperature).log_softmax(1)[:, 0]
        contrasted = learnt.any(1) & own.any(1)
        contrast = -self.settings.contrast_weight * shares[contrasted].sum()
        return {"nll": (nll.sum(), len(nll)), "contrast": (contrast, int(contrasted.sum()))}


def mean_direction(states: Any, places: Any) -> Any:
    """(B, d) fp32 unit vectors: the mean of (B, T, d) over the (B, T) places; 0 where none is."""
    mask = places[..., None]
    return normalize((states.float() * mask).sum(1) / mask.sum(1).clamp(min=1), dim=-1)
