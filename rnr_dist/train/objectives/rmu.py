"""RMU, representation misdirection for unlearning (Li et al., 2024).

In: items of a `forget` and a `retain` example. Out, h the output of decoder layer l: `forget`,
|h(x_f) - c u|^2, u a random unit vector; `retain`, alpha |h(x_r) - h_0(x_r)|^2, h_0 of theta0; both
means over attended tokens (prompts too) and hidden units. Invariant: layers after l never run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from rnr_dist.config.objectives import RmuObjective
from rnr_dist.train.collate import Item
from rnr_dist.train.passes import layer_states
from rnr_dist.train.trainable import Trained


class Rmu:
    """Moves the forget texts' hidden states to one random point and holds the retain texts'."""

    remembered: tuple[str, ...] = ()

    roles: Mapping[str, tuple[int, int]] = {"forget": (1, 1), "retain": (1, 1)}

    def __init__(self, settings: RmuObjective):
        self.settings = settings

    def counts(self, items: Sequence[Item]) -> dict[str, int]:
        return {
            role: sum(len(example.token_ids) for item in items for example in item[role])
            for role in self.roles
        }

    def terms(
        self, trained: Trained, batch: Mapping[str, Mapping[str, Any]]
    ) -> dict[str, tuple[Any, int]]:
        forget, retain = batch["forget"], batch["retain"]
        with trained.reference():
            before = self._states(trained, retain)
        steered = self._states(trained, forget)
        held = self._states(trained, retain)
        goal = self.settings.coefficient * direction(steered.shape[-1], trained.seed)
        return {
            "forget": (squares(steered - goal.to(steered.device), forget), tokens(forget)),
            "retain": (self.settings.alpha * squares(held - before, retain), tokens(retain)),
        }

    def _states(self, trained: Trained, rows: Mapping[str, Any]) -> Any:
        return layer_states(trained.model, rows["input_ids"], self.settings.layer).float()


def direction(size: int, seed: int) -> torch.Tensor:
    """(size,) unit vector of positive entries; drawn on the CPU, so the same on every rank."""
    entries = torch.rand(size, generator=torch.Generator().manual_seed(seed))
    return entries / entries.norm()


def squares(difference: Any, rows: Mapping[str, Any]) -> Any:
    """Sum over the attended tokens of the mean square over hidden units."""
    return difference[rows["attention_mask"].bool()].square().mean(-1).sum()


def tokens(rows: Mapping[str, Any]) -> int:
    """Attended tokens."""
    return int(rows["attention_mask"].sum())
