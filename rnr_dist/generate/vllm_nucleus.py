"""The exact nucleus as a vLLM logits processor, loaded by name inside the engine's process.

A request asks for it by `extra_args={"nucleus": p}` with `top_p` left at 1. Invariant: row i of the
mask belongs to the request that vLLM holds in row i of its persistent batch.
"""

from __future__ import annotations

from typing import Any

import torch
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, MoveDirectionality

from rnr_dist.generate.nucleus import mask_nucleus


class ExactNucleus(LogitsProcessor):
    """Masks all tokens outside each row's nucleus, after temperature."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool):
        self.device = device
        self.wanted: dict[int, float] = {}
        self.top_p: torch.Tensor | None = None

    def is_argmax_invariant(self) -> bool:
        return True  # the most likely token is always inside; such processors run after T

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        if batch_update is None:
            return
        for row in batch_update.removed:
            self.wanted.pop(row, None)
        for row, params, *_ in batch_update.added:
            self.wanted[row] = float((params.extra_args or {}).get("nucleus", 1.0))
        for source, target, direction in batch_update.moved:
            moved, replaced = self.wanted.pop(source, None), self.wanted.pop(target, None)
            if moved is not None:
                self.wanted[target] = moved
            if replaced is not None and direction == MoveDirectionality.SWAP:
                self.wanted[source] = replaced
        self.top_p = None

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        if self.top_p is None or len(self.top_p) != logits.shape[0]:
            values = [self.wanted.get(row, 1.0) for row in range(logits.shape[0])]
            self.top_p = torch.tensor(values, device=self.device)
        return mask_nucleus(logits, self.top_p)
