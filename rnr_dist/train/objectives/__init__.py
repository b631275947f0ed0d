"""Objectives: what a training minimises. Plain ones are here, a method's is in its own file.

In: the model under training and a batch of `collate`. Out: for each named loss term its numerator
and denominator. Invariant: an objective never divides by a count; the training loop does, by that
of the whole step, so that 1 and N workers minimise the same thing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from rnr_dist.config.registry import method_class
from rnr_dist.config.training import ObjectiveSettings
from rnr_dist.errors import InputError
from rnr_dist.train.collate import Item
from rnr_dist.train.objectives.causal import Causal

if TYPE_CHECKING:
    from rnr_dist.train.trainable import Trained


class Objective(Protocol):
    """A loss as sums over tokens, pairs or whatever a term counts."""

    @property
    def parts(self) -> Mapping[str, tuple[int, int]]:
        """The parts that an item takes, each with the least and the most examples of it."""
        ...

    @property
    def remembered(self) -> Sequence[str]:
        """The parts whose `reference_states` or `reference_nll` it asks theta0 for."""
        ...

    def counts(self, items: Sequence[Item]) -> dict[str, int]:
        """Denominator of each term over `items`, before any of them is run.

        The names are the same for any items. An item that counts for nothing is not trained on.
        """
        ...

    def terms(
        self, trained: Trained, batch: Mapping[str, Mapping[str, Any]]
    ) -> dict[str, tuple[Any, int]]:
        """(numerator, denominator) of each term over a batch of `collate.collate`.

        The numerator is a scalar tensor, the weighted sum over what the denominator counts. Every
        rank passes through the model equally often, whatever is in its batch: under ZeRO-3 each
        pass is a collective. So a batch of no items also has a gradient, and it is 0.
        """
        ...


def make_objective(settings: ObjectiveSettings) -> Objective:
    """The objective that a `training.objective` section describes."""
    return objective_class(settings.name)(settings)


def objective_class(name: str) -> Callable[[Any], Objective]:
    """A plain objective, or that of the method of this name."""
    if name == "causal":
        return Causal
    if name == "orthogonal":
        from rnr_dist.train.objectives.orthogonal import Orthogonal

        return Orthogonal
    found: Callable[[Any], Objective] = method_class(name).Objective
    return found


def check_items(objective: Objective, items: Sequence[Item], place: str) -> None:
    """Raise InputError, with `place` in it, for an item whose parts are not the objective's."""
    for number, item in enumerate(items):
        for part in sorted(item.parts | objective.parts.keys()):
            least, most = objective.parts.get(part, (0, 0))
            if not least <= len(item[part]) <= most:
                expected = f"{least}" if least == most else f"{least} to {most}"
                raise InputError(
                    f"{place}: training item {number} has {len(item[part])} examples as the part "
                    f"{part}; expected {expected}"
                )
