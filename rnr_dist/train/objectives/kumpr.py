"""KUMPR (Jang et al., 2023): gradient ascent on the target's tokens.

In: items of one `forget` sequence. Out: `forget`, its log-likelihood, nats a token. Invariant:
unbounded below: what stops it is the stopping rule alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rnr_dist.config.objectives import KumprObjective
from rnr_dist.train.collate import IGNORED, Item
from rnr_dist.train.objectives.icu import losses
from rnr_dist.train.trainable import Trained


class Kumpr:
    """Makes the target less likely."""

    roles: Mapping[str, tuple[int, int]] = {"forget": (1, 1)}
    remembered: tuple[str, ...] = ()

    def __init__(self, settings: KumprObjective):
        self.settings = settings

    def counts(self, items: Sequence[Item]) -> dict[str, int]:
        return {"forget": sum(x.labels for item in items for x in item["forget"])}

    def terms(
        self, trained: Trained, batch: Mapping[str, Mapping[str, Any]]
    ) -> dict[str, tuple[Any, int]]:
        nll, _ = losses(trained, batch["forget"])
        return {"forget": (-nll, int((batch["forget"]["labels"] != IGNORED).sum()))}
