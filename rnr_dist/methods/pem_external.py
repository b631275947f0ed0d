"""PEM-external (Zhang et al., 2023): subtract an adapter trained on external pairs of the target.

In: (prompt, response) pairs that others wrote. Out: Phi0 - mu Delta, Delta trained on them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from rnr_dist.config.methods import MethodSettings, Way, by_merge
from rnr_dist.config.training import Training
from rnr_dist.errors import InputError
from rnr_dist.train.collate import Item, texts
from rnr_dist.train.materials import Materials, Need
from rnr_dist.types import Adapter, ModelRef, Side


class PemExternal:
    """Learns what others wrote, and takes that away."""

    name: ClassVar[str] = "pem_external"
    needs: ClassVar[frozenset[Need]] = frozenset({"external"})
    Objective: ClassVar[type[Any] | None] = None
    adapters: ClassVar[Mapping[str, Side]] = {"external": "forget"}
    refined: ClassVar[bool] = False

    @classmethod
    def settings(cls, way: Way) -> MethodSettings | None:
        if way == "epochs":
            return None
        return by_merge(Training(), (3e-4, 1e-3), 0.05, 3)

    def items(self, adapter: str, materials: Materials, training: Training) -> Sequence[Item]:
        if not materials.external:
            raise InputError("method pem_external: found no external pairs; expected some")
        return texts(materials.external)

    def model(
        self, base: ModelRef, adapters: Mapping[str, Adapter], strength: float, folder: Path
    ) -> ModelRef:
        return base.plus(-strength, adapters["external"])
