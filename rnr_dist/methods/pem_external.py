"""PEM-external (Zhang et al. 2023): subtract an adapter trained on external pairs of the target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from rnr_dist.errors import InputError
from rnr_dist.methods.materials import Materials
from rnr_dist.train.collate import Example, Item, texts
from rnr_dist.types import Adapter, ModelRef


class PemExternal:
    """Phi0 - mu Delta, Delta trained on (context, reference) pairs that others wrote."""

    roles: Mapping[str, Literal["forget", "retain"]] = {"external": "forget"}

    def items(self, name: str, materials: Materials) -> Sequence[Item]:
        settings = materials.settings
        examples = []
        for context in materials.external:
            toxicity = context.reference_toxicity
            if context.reference and (toxicity is None or toxicity > settings.external_above):
                prompt = materials.encode(context.text)
                # Encoded apart: where a reference begins must be a border of tokens.
                reference = materials.encode(f" {context.reference.strip()}")
                examples.append(Example((*prompt, *reference), len(prompt)))
        if not examples:
            raise InputError(
                f"baselines.external: none of {len(materials.external)} pairs has a reference of "
                f"toxicity above {settings.external_above:g}; expected some"
            )
        return texts(examples)

    def model(
        self, base: ModelRef, adapters: Mapping[str, Adapter], strength: float, folder: Path
    ) -> ModelRef:
        return base.plus(-strength, adapters["external"])
