"""LLMU (Yao et al., 2024): ascent on the target, mismatched answers to its prefix, KL elsewhere.

In: items of a `forget` sequence, `mismatch` sequences (its prefix, then other sequences' ends), and
its `learn` pairs and what else to `retain` as normal data. Out: `forget`, `mismatch` (nats a token)
and `kl`. Invariant: the mismatched answers are given with the items, so every epoch and every
number of ranks sees the same.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from rnr_dist.config.base import Count, Weight
from rnr_dist.config.methods import MethodSettings, Way, by_epochs, by_merge
from rnr_dist.config.training import ObjectiveSettings, Retained, Training
from rnr_dist.methods.icu import require_pairs
from rnr_dist.train.collate import Item
from rnr_dist.train.materials import Materials, Need, example_of, other_end
from rnr_dist.train.passes import label_count, part_losses
from rnr_dist.types import Adapter, ModelRef, Side

if TYPE_CHECKING:
    from rnr_dist.train.trainable import Trained


class LlmuSettings(ObjectiveSettings):
    """LLMU (Yao et al. 2024): ascent, mismatched answers to the target's prefix, KL."""

    name: Literal["llmu"] = "llmu"
    head_alone: ClassVar[bool] = True
    forget_weight: Weight = 0.5
    """Weight of the target's log-likelihood."""
    mismatch_weight: Weight = 1.0
    """Weight of the cross-entropy of other sequences' ends behind the target's prefix."""
    kl_weight: Weight = 1.0
    """Weight of KL(theta0 || theta) on the pairs and on what is retained."""
    retain: Retained = 3
    """Further texts a target that the KL holds, as ICU's."""
    mismatches: Count = 5
    """Other ends of each target."""


class LlmuObjective:
    """Less of the target, something else instead, and theta0 on normal data."""

    Settings = LlmuSettings

    def __init__(self, settings: LlmuSettings):
        self.settings = settings
        self.parts: dict[str, tuple[int, int]] = {
            "forget": (1, 1),
            "mismatch": (0, settings.mismatches),
            "learn": (0, 64),
        }
        if settings.retain:
            self.parts["retain"] = (0, settings.retain)
        self.remembered = tuple(part for part in ("learn", "retain") if part in self.parts)

    def counts(self, items: Sequence[Item]) -> dict[str, int]:
        return {
            name: sum(x.labels for item in items for part in parts for x in item[part])
            for name, parts in (
                ("forget", ("forget",)),
                ("mismatch", ("mismatch",)),
                ("kl", self.remembered),
            )
        }

    def terms(
        self, trained: Trained, batch: Mapping[str, Mapping[str, Any]]
    ) -> dict[str, tuple[Any, int]]:
        forgotten, _ = part_losses(trained, batch["forget"])
        mismatched, _ = part_losses(trained, batch["mismatch"])
        held = [part_losses(trained, batch[part], before=True)[1] for part in self.remembered]
        return {
            "forget": (-self.settings.forget_weight * forgotten, label_count(batch["forget"])),
            "mismatch": (
                self.settings.mismatch_weight * mismatched,
                label_count(batch["mismatch"]),
            ),
            "kl": (
                self.settings.kl_weight * sum(held),
                sum(label_count(batch[part]) for part in self.remembered),
            ),
        }


class Llmu:
    """An item a forget sequence: its pairs are the normal data, and the wrong answers are ends of
    the sequences that pairs are taken from."""

    name: ClassVar[str] = "llmu"
    needs: ClassVar[frozenset[Need]] = frozenset({"forget", "pairs", "retain"})
    Objective = LlmuObjective
    adapters: ClassVar[Mapping[str, Side]] = {"unlearnt": "forget"}
    refined: ClassVar[bool] = False

    @classmethod
    def settings(cls, way: Way) -> MethodSettings:
        if way == "epochs":
            return by_epochs(LlmuSettings())
        objective = LlmuSettings(retain=1, mismatches=2)
        return by_merge(Training(objective=objective), (1e-4, 3e-4, 1e-3), 0.5, 4)

    def items(self, adapter: str, materials: Materials, training: Training) -> Sequence[Item]:
        settings = training.objective
        assert isinstance(settings, LlmuSettings)
        require_pairs(self.name, materials)
        paired = (pair for pairs in materials.pairs.values() for pair in pairs)
        pool = materials.others or tuple({pair.id: pair for pair in paired}.values())
        items = []
        for number, sequence in enumerate(materials.forget):
            draw = random.Random(f"{materials.seed} {number}")
            others = draw.sample(list(pool), min(settings.mismatches, len(pool)))
            items.append(
                Item.of(
                    forget=[example_of(sequence)],
                    mismatch=[other_end(sequence, other) for other in others],
                    learn=materials.paired(sequence),
                )
            )
        return items

    def model(
        self, base: ModelRef, adapters: Mapping[str, Adapter], strength: float, folder: Path
    ) -> ModelRef:
        return base.plus(strength, adapters["unlearnt"])
