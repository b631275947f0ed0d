"""RMU (Li et al. 2024): misdirect the hidden states of what shall be forgotten."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from rnr_dist.methods.materials import Materials, side_by_side
from rnr_dist.train.collate import Item
from rnr_dist.types import Adapter, ModelRef


class Rmu:
    """Forget rows beside retain texts; the trained matrices' change is added with the strength."""

    roles: Mapping[str, Literal["forget", "retain"]] = {"misdirected": "forget"}

    def items(self, name: str, materials: Materials) -> Sequence[Item]:
        return side_by_side(materials.forget, materials.retain)

    def model(
        self, base: ModelRef, adapters: Mapping[str, Adapter], strength: float, folder: Path
    ) -> ModelRef:
        return base.plus(strength, adapters["misdirected"])
