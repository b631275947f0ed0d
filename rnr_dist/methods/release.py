"""Reveal-and-Release's own: Eq. 1 on the forget and retain sets, its weights under the rules.

In: what reveal found, or given sequences. Out: the model that Eq. 1 ends with. Invariant: its
trainings and weights are the config's `release`, on whatever task.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from rnr_dist.config.methods import MethodSettings, Way
from rnr_dist.config.training import Training
from rnr_dist.train.collate import Item, texts
from rnr_dist.train.materials import Materials, Need, example_of
from rnr_dist.types import Adapter, ModelRef, Side

if TYPE_CHECKING:
    from rnr_dist.methods.merge import Ground, Merged


class RevealAndRelease:
    """Subtracts what was learnt of the forget set, adds what was learnt of the retain set."""

    name: ClassVar[str] = "release"
    needs: ClassVar[frozenset[Need]] = frozenset({"forget", "retain"})
    Objective: ClassVar[type[Any] | None] = None
    adapters: ClassVar[Mapping[str, Side]] = {
        "forget": "forget",
        "retain": "retain",
    }
    refined: ClassVar[bool] = False
    section: ClassVar[str] = "release"
    """The config's section that stands for its settings."""

    @classmethod
    def settings(cls, way: Way) -> MethodSettings | None:
        return MethodSettings(training=Training()) if way == "merge" else None

    def items(self, adapter: str, materials: Materials, training: Training) -> Sequence[Item]:
        if adapter == "retain":
            return texts(materials.retain)
        return texts(map(example_of, materials.forget))

    def model(
        self, base: ModelRef, adapters: Mapping[str, Adapter], strength: float, folder: Path
    ) -> ModelRef:
        return base.plus(-strength, adapters["forget"])

    def search(self, ground: Ground) -> Merged:
        """Eq. 1 with the search of its weights, which takes the place of a grid of strengths."""
        from rnr_dist.methods.eq1 import run_released

        return run_released(self, ground)
