"""Ext-Sub (Hu et al., 2024): an expert, an anti-expert, and what only the latter has.

In: retain and forget texts. Out: a model less the anti-expert's own part (`weights.ext_sub`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from rnr_dist.config.methods import MethodSettings, Way, by_merge
from rnr_dist.config.training import Training
from rnr_dist.train.collate import Item, texts
from rnr_dist.train.materials import Materials, Need, example_of
from rnr_dist.types import Adapter, ModelRef, Side


class ExtSub:
    """The strength is alpha; the expert learns the retain set, the anti-expert the forget set."""

    name: ClassVar[str] = "ext_sub"
    needs: ClassVar[frozenset[Need]] = frozenset({"forget", "retain"})
    Objective: ClassVar[type[Any] | None] = None
    adapters: ClassVar[Mapping[str, Side]] = {
        "expert": "retain",
        "anti-expert": "forget",
    }
    refined: ClassVar[bool] = False

    @classmethod
    def settings(cls, way: Way) -> MethodSettings | None:
        if way == "epochs":
            return None
        return by_merge(Training(), (3e-4, 1e-3), 0.1, 6)

    def items(self, adapter: str, materials: Materials, training: Training) -> Sequence[Item]:
        if adapter == "expert":
            return texts(materials.retain)
        return texts(map(example_of, materials.forget))

    def model(
        self, base: ModelRef, adapters: Mapping[str, Adapter], strength: float, folder: Path
    ) -> ModelRef:
        from rnr_dist.weights.ext_sub import ext_sub

        expert, anti_expert = adapters["expert"], adapters["anti-expert"]
        made = ext_sub(expert, anti_expert, strength, folder / f"alpha-{strength:g}")
        return base.plus(1.0, made)
