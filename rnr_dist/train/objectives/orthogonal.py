"""Causal with O-LoRA's regulariser (Wang et al., 2023; appendix B of Reveal-and-Release).

In: items of one `text`, and the A matrices of adapters in the model that is trained on. Out: `nll`
as of `causal`, and `overlap`: weight x sum over modules and entries of |A_old A_new^T|. Invariant:
`overlap` is a property of the weights: its value is the same whatever a step holds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from rnr_dist.config.training import OrthogonalObjective
from rnr_dist.train.collate import IGNORED, Item
from rnr_dist.train.objectives.causal import Causal
from rnr_dist.train.trainable import Trained
from rnr_dist.weights.composition import load_adapter

PEFT_PREFIX = "base_model.model."  # of a layer's name in the checkpoint, within a PEFT model


class Orthogonal:
    """Learns the texts in directions that earlier adapters do not read.

    Each item carries an equal part of `overlap`, since the loop divides by counts of a step.
    """

    remembered: tuple[str, ...] = ()

    parts = Causal.parts

    def __init__(self, settings: OrthogonalObjective):
        self.settings = settings
        self.causal = Causal()
        self._earlier: dict[str, torch.Tensor] | None = None

    def counts(self, items: Sequence[Item]) -> dict[str, int]:
        learnt = [any(text.labels for text in item["text"]) for item in items]
        return {**self.causal.counts(items), "overlap": sum(learnt)}

    def terms(
        self, trained: Trained, batch: Mapping[str, Mapping[str, Any]]
    ) -> dict[str, tuple[Any, int]]:
        terms = self.causal.terms(trained, batch)
        items = int((batch["text"]["labels"] != IGNORED).any(1).sum())
        overlap = terms["nll"][0].new_zeros(())
        for old, new in self._pairs(trained):
            overlap = overlap + (old.to(new.device) @ new.T).abs().sum()
        return {**terms, "overlap": (self.settings.weight * items * overlap, items)}

    def _pairs(self, trained: Trained) -> Iterator[tuple[Any, Any]]:
        """(A_old, A_new) of each layer that both train, the A_old of all adapters stacked."""
        if self._earlier is None:
            self._earlier = earlier_downs(trained, self.settings.against)
        for name, layer in trained.model.named_modules():
            old = self._earlier.get(name.removeprefix(PEFT_PREFIX))
            if old is not None and hasattr(layer, "lora_A"):
                # ZeRO-3 gathers a weight that is read by its name, here as in a forward pass.
                yield old, layer.lora_A["default"].weight


def earlier_downs(trained: Trained, against: str) -> dict[str, torch.Tensor]:
    """{layer: (sum of ranks, in) fp32}: the A of the adapters in the model, each adapter once."""
    adapters = {term.adapter.digest: term.adapter for term in trained.base.terms}
    downs: dict[str, list[torch.Tensor]] = {}
    for adapter in adapters.values():
        if against in ("all", adapter.side):
            for module, (a, _, _) in load_adapter(adapter.path).items():
                downs.setdefault(module, []).append(a)
    return {module: torch.cat(parts) for module, parts in downs.items()}
