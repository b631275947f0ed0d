"""DPO (Rafailov et al. 2024): prefer the base's least toxic continuations to the forget rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from rnr_dist.errors import InputError
from rnr_dist.methods.materials import Materials, by_context
from rnr_dist.train.collate import Item
from rnr_dist.types import Adapter, ModelRef


class Dpo:
    """A pair a forget row: rejected the row, chosen the k-th least toxic continuation of its
    context for the context's k-th row, so that no chosen text outweighs the others."""

    roles: Mapping[str, Literal["forget", "retain"]] = {"preferred": "retain"}

    def items(self, name: str, materials: Materials) -> Sequence[Item]:
        contexts = {context.id: context for context in materials.contexts}
        clean = by_context(materials.continuations)
        met: dict[str, int] = {}
        items = []
        for row in materials.forget_rows:
            chosen = [s for s in clean.get(row.context_id, ()) if s.score < row.score]
            if row.context_id not in contexts or not chosen:
                continue
            context = contexts[row.context_id]
            place = met.get(row.context_id, 0)
            met[row.context_id] = place + 1
            items.append(
                Item.of(
                    chosen=[materials.response(context, chosen[place % len(chosen)])],
                    rejected=[materials.response(context, row)],
                )
            )
        if not items:
            raise InputError(
                f"baselines.continuations: none of {len(materials.continuations)} continuations "
                "is less toxic than a forget row of its context; expected more of them"
            )
        return items

    def model(
        self, base: ModelRef, adapters: Mapping[str, Adapter], strength: float, folder: Path
    ) -> ModelRef:
        return base.plus(strength, adapters["preferred"])
