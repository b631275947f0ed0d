"""CMD (Tang et al. 2024): learn how to go on cleanly from a toxic context.

The base model goes on from detoxified contexts; the least toxic continuation is learnt behind the
original context, in contrast to toxic ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from rnr_dist.errors import InputError
from rnr_dist.methods.materials import Materials, by_context
from rnr_dist.train.collate import Item
from rnr_dist.types import Adapter, ModelRef


class Cmd:
    """An item a context: the least toxic continuation of its clean form as positive, the most
    toxic ones of it and of the context itself as negatives."""

    roles: Mapping[str, Literal["forget", "retain"]] = {"detoxified": "retain"}

    def items(self, name: str, materials: Materials) -> Sequence[Item]:
        settings = materials.settings
        objective = settings.cmd.training.objective
        most = objective.negatives if objective.name == "cmd" else 0
        clean = by_context(materials.cleaned)
        every = by_context([*materials.cleaned, *materials.continuations])
        items = []
        for context in materials.contexts:
            if context.id not in clean:
                continue
            toxic = [s for s in reversed(every[context.id]) if s.score > settings.negative_above]
            items.append(
                Item.of(
                    positive=[materials.response(context, clean[context.id][0])],
                    negative=[materials.response(context, sample) for sample in toxic[:most]],
                )
            )
        if not items:
            raise InputError(
                f"baselines.continuations: none of {len(materials.contexts)} detoxified contexts "
                "has a continuation that says anything; expected more continuations"
            )
        return items

    def model(
        self, base: ModelRef, adapters: Mapping[str, Adapter], strength: float, folder: Path
    ) -> ModelRef:
        return base.plus(strength, adapters["detoxified"])
