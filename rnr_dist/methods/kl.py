"""Gradient ascent held by a divergence (Maini et al., 2024): -CE on the target, KL on the pairs.

In: items of a `forget` sequence, its `learn` pairs and what else to `retain`. Out: `forget` and
`kl` as ICU's. Invariant: ICU without L_lrn; as many tokens of a pair are held as of its target are
ascended over (`whole`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal

from rnr_dist.config.base import Flag, Weight
from rnr_dist.config.methods import MethodSettings, Way, by_epochs, by_merge
from rnr_dist.config.training import ObjectiveSettings, Retained, Training
from rnr_dist.methods.icu import IcuObjective, IcuSettings, require_pairs
from rnr_dist.train.collate import Item
from rnr_dist.train.materials import Materials, Need, example_of
from rnr_dist.types import Adapter, ModelRef, Side


class KlSettings(ObjectiveSettings):
    """Gradient ascent on the target, KL(theta0 || theta) on the pairs."""

    name: Literal["kl"] = "kl"
    head_alone: ClassVar[bool] = True
    kl_weight: Weight = 1.0
    """Weight of the KL."""
    retain: Retained = 3
    """Further texts a target that the KL holds, as ICU's."""
    whole: Flag = True
    """All tokens count, the target's and its pairs'."""


class KlObjective(IcuObjective):
    """ICU with alpha = 0."""

    Settings = KlSettings  # type: ignore[assignment]

    def __init__(self, settings: KlSettings):
        super().__init__(
            IcuSettings(learn_weight=0, kl_weight=settings.kl_weight, retain=settings.retain)
        )


class Kl:
    """An item a forget sequence with the pairs that are held."""

    name: ClassVar[str] = "kl"
    needs: ClassVar[frozenset[Need]] = frozenset({"forget", "pairs", "retain"})
    Objective = KlObjective
    adapters: ClassVar[Mapping[str, Side]] = {"unlearnt": "forget"}
    refined: ClassVar[bool] = False

    @classmethod
    def settings(cls, way: Way) -> MethodSettings:
        if way == "epochs":
            return by_epochs(KlSettings())
        objective = KlSettings(whole=False, retain=1)
        return by_merge(Training(objective=objective), (1e-4, 3e-4, 1e-3), 0.5, 4)

    def items(self, adapter: str, materials: Materials, training: Training) -> Sequence[Item]:
        settings = training.objective
        assert isinstance(settings, KlSettings)
        require_pairs(self.name, materials)
        return [
            Item.of(
                forget=[example_of(sequence, settings.whole)],
                learn=materials.paired(sequence, settings.whole),
            )
            for sequence in materials.forget
        ]

    def model(
        self, base: ModelRef, adapters: Mapping[str, Adapter], strength: float, folder: Path
    ) -> ModelRef:
        return base.plus(strength, adapters["unlearnt"])
