"""Ext-Sub (Hu et al. 2024) as a method: an expert, an anti-expert, and what only the latter has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from rnr_dist.methods.materials import Materials
from rnr_dist.train.collate import Item, texts
from rnr_dist.types import Adapter, ModelRef
from rnr_dist.weights.ext_sub import ext_sub


class ExtSub:
    """The strength is alpha; the expert learns the retain set, the anti-expert the forget set."""

    roles: Mapping[str, Literal["forget", "retain"]] = {
        "expert": "retain",
        "anti-expert": "forget",
    }

    def items(self, name: str, materials: Materials) -> Sequence[Item]:
        return texts(materials.retain if name == "expert" else materials.forget)

    def model(
        self, base: ModelRef, adapters: Mapping[str, Adapter], strength: float, folder: Path
    ) -> ModelRef:
        made = ext_sub(
            adapters["expert"], adapters["anti-expert"], strength, folder / f"alpha-{strength:g}"
        )
        return base.plus(1.0, made)
