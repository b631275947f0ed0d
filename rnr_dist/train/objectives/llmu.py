"""LLMU (Yao et al., 2024): ascent on the target, mismatched answers to its prefix, KL elsewhere.

In: items of a `forget` sequence, `mismatch` sequences (its prefix, then other sequences' ends), and
its `learn` pairs and what else to `retain` as normal data. Out: `forget`, `mismatch` (nats a token)
and `kl`. Invariant: the mismatched answers are given with the items, so every epoch and every
number of ranks sees the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rnr_dist.config.objectives import LlmuObjective
from rnr_dist.train.collate import IGNORED, Item
from rnr_dist.train.objectives.icu import losses
from rnr_dist.train.trainable import Trained


class Llmu:
    """Less of the target, something else instead, and theta0 on normal data."""

    def __init__(self, settings: LlmuObjective):
        self.settings = settings
        self.roles: dict[str, tuple[int, int]] = {
            "forget": (1, 1),
            "mismatch": (0, settings.mismatches),
            "learn": (0, 64),
        }
        if settings.retain:
            self.roles["retain"] = (0, settings.retain)
        self.remembered = tuple(role for role in ("learn", "retain") if role in self.roles)

    def counts(self, items: Sequence[Item]) -> dict[str, int]:
        return {
            name: sum(x.labels for item in items for role in roles for x in item[role])
            for name, roles in (
                ("forget", ("forget",)),
                ("mismatch", ("mismatch",)),
                ("kl", self.remembered),
            )
        }

    def terms(
        self, trained: Trained, batch: Mapping[str, Mapping[str, Any]]
    ) -> dict[str, tuple[Any, int]]:
        forgotten, _ = losses(trained, batch["forget"])
        mismatched, _ = losses(trained, batch["mismatch"])
        held = [losses(trained, batch[role], before=True)[1] for role in self.remembered]
        return {
            "forget": (-self.settings.forget_weight * forgotten, labels(batch["forget"])),
            "mismatch": (self.settings.mismatch_weight * mismatched, labels(batch["mismatch"])),
            "kl": (
                self.settings.kl_weight * sum(held),
                sum(labels(batch[role]) for role in self.remembered),
            ),
        }


def labels(rows: Mapping[str, Any]) -> int:
    """Tokens that are learnt."""
    return int((rows["labels"] != IGNORED).sum())
