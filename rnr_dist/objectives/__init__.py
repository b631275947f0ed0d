"""Objectives: what a training minimises, one small file each, found by name.

In: a model and a padded batch. Out: for each named loss term its numerator and denominator.
Invariant: an objective never divides; the training loop does, by the count over the whole step,
so that 1 and N workers minimise the same thing (design decision 7).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from rnr_dist.objectives.causal import Causal
from rnr_dist.train.collate import Example


class Objective(Protocol):
    """A loss as sums over valid tokens."""

    needs: frozenset[str]
    """What the loop has to provide beside the batch; nothing so far."""

    def counts(self, examples: Sequence[Example]) -> dict[str, int]:
        """Denominator of each term over `examples`, before any of them is run."""
        ...

    def terms(self, model: Any, batch: Mapping[str, Any]) -> dict[str, tuple[Any, int]]:
        """(numerator, denominator) of each term over a batch of `collate.pad`.

        The numerator is a scalar tensor with a gradient, the sum over the denominator's items.
        """
        ...


OBJECTIVES: dict[str, type[Objective]] = {"causal": Causal}
