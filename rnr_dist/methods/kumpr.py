"""KUMPR (Jang et al., 2023): gradient ascent on the target's tokens.

In: items of one `forget` sequence. Out: `forget`, its log-likelihood, nats a token. Invariant:
unbounded below: what stops it is the stopping rule, or the budget, alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from rnr_dist.config.base import Flag
from rnr_dist.config.methods import MethodSettings, Way, by_epochs, by_merge
from rnr_dist.config.training import ObjectiveSettings, Training
from rnr_dist.train.collate import Item
from rnr_dist.train.materials import Materials, Need, example_of
from rnr_dist.train.passes import label_count, part_losses
from rnr_dist.types import Adapter, ModelRef, Side

if TYPE_CHECKING:
    from rnr_dist.train.trainable import Trained


class KumprSettings(ObjectiveSettings):
    """Gradient ascent on the target (Jang et al. 2023)."""

    name: Literal["kumpr"] = "kumpr"
    head_alone: ClassVar[bool] = True
    whole: Flag = True
    """All tokens count, as its authors have it."""


class KumprObjective:
    """Makes the target less likely."""

    Settings = KumprSettings
    parts: Mapping[str, tuple[int, int]] = {"forget": (1, 1)}
    remembered: tuple[str, ...] = ()

    def __init__(self, settings: KumprSettings):
        self.settings = settings

    def counts(self, items: Sequence[Item]) -> dict[str, int]:
        return {"forget": sum(x.labels for item in items for x in item["forget"])}

    def terms(
        self, trained: Trained, batch: Mapping[str, Mapping[str, Any]]
    ) -> dict[str, tuple[Any, int]]:
        nll, _ = part_losses(trained, batch["forget"])
        return {"forget": (-nll, label_count(batch["forget"]))}


class Kumpr:
    """An item a forget sequence."""

    name: ClassVar[str] = "kumpr"
    needs: ClassVar[frozenset[Need]] = frozenset({"forget"})
    Objective = KumprObjective
    adapters: ClassVar[Mapping[str, Side]] = {"unlearnt": "forget"}
    refined: ClassVar[bool] = False

    @classmethod
    def settings(cls, way: Way) -> MethodSettings:
        if way == "epochs":
            return by_epochs(KumprSettings())
        objective = KumprSettings(whole=False)
        return by_merge(Training(objective=objective), (1e-4, 3e-4, 1e-3), 0.5, 4)

    def items(self, adapter: str, materials: Materials, training: Training) -> Sequence[Item]:
        settings = training.objective
        assert isinstance(settings, KumprSettings)
        return [
            Item.of(forget=[example_of(sequence, settings.whole)]) for sequence in materials.forget
        ]

    def model(
        self, base: ModelRef, adapters: Mapping[str, Adapter], strength: float, folder: Path
    ) -> ModelRef:
        return base.plus(strength, adapters["unlearnt"])
