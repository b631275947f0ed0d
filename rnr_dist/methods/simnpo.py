"""SimNPO (Fan et al., 2024): negative preference optimisation without a reference, by length.

In: items of a `forget` sequence and what else to `retain`. Out: `simnpo`, a mean over sequences,
-2/beta log sigma(-beta/|y| log pi - gamma), log pi the sum over the |y| tokens of the response;
`retain`, nats a token. Invariant: theta0 is asked for nothing; a long response counts no more than
a short one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from rnr_dist.config.base import Positive, Weight
from rnr_dist.config.methods import MethodSettings, Way, by_epochs, by_merge
from rnr_dist.config.training import ObjectiveSettings, Retained, Training
from rnr_dist.train.collate import Item
from rnr_dist.train.materials import Materials, Need, example_of
from rnr_dist.train.passes import has_response, log_probability, predicted, token_nll
from rnr_dist.types import Adapter, ModelRef, Side

if TYPE_CHECKING:
    from rnr_dist.train.trainable import Trained


class SimnpoSettings(ObjectiveSettings):
    """SimNPO: forget sequences are made unlikely a token, the less eagerly the less likely."""

    name: Literal["simnpo"] = "simnpo"
    beta: Positive = 2.5
    """Weight of a token's mean log-likelihood (nats); its authors take 2.5 to 4.5 on TOFU."""
    gamma: Weight = 0.0
    """Margin of reward; theirs is 0."""
    forget_weight: Weight = 0.1375
    """Weight of the loss above beside what is retained; theirs on TOFU's 5 %."""
    retain_weight: Weight = 1.0
    """Weight of the cross-entropy (nats a token) of what is retained; 0 takes none."""
    retain: Retained = 1
    """Texts an item that are retained, others in each epoch where it is trained by epochs."""


class SimnpoObjective:
    """Makes each token of the target unlikely, the less eagerly the less likely it is."""

    Settings = SimnpoSettings
    remembered: tuple[str, ...] = ()

    def __init__(self, settings: SimnpoSettings):
        self.settings = settings
        self.parts: dict[str, tuple[int, int]] = {"forget": (1, 1)}
        if settings.retain_weight and settings.retain:
            self.parts["retain"] = (0, settings.retain)

    def counts(self, items: Sequence[Item]) -> dict[str, int]:
        counts = {"simnpo": sum(x.labels > 0 for item in items for x in item["forget"])}
        if "retain" in self.parts:
            counts["retain"] = sum(text.labels for item in items for text in item["retain"])
        return counts

    def terms(
        self, trained: Trained, batch: Mapping[str, Mapping[str, Any]]
    ) -> dict[str, tuple[Any, int]]:
        from torch.nn.functional import softplus

        rows, settings = batch["forget"], self.settings
        total = log_probability(lambda rows: token_nll(trained, rows)[:2], rows)
        each = total / predicted(rows).sum(1).clamp(min=1)
        told = has_response(rows)
        loss = 2 / settings.beta * softplus(settings.beta * each + settings.gamma)[told].sum()
        terms = {"simnpo": (settings.forget_weight * loss, int(told.sum()))}
        if "retain" in self.parts:
            nll, _, _ = token_nll(trained, batch["retain"])
            terms["retain"] = (settings.retain_weight * nll.sum(), len(nll))
        return terms


class Simnpo:
    """An item a forget sequence; its prompt is given, its response is forgotten."""

    name: ClassVar[str] = "simnpo"
    needs: ClassVar[frozenset[Need]] = frozenset({"forget", "retain"})
    Objective = SimnpoObjective
    adapters: ClassVar[Mapping[str, Side]] = {"unlearnt": "forget"}
    refined: ClassVar[bool] = False

    @classmethod
    def settings(cls, way: Way) -> MethodSettings:
        """Its authors' weights for TOFU, and their rate (1e-5) by epochs."""
        if way == "epochs":
            return by_epochs(SimnpoSettings())
        return by_merge(Training(objective=SimnpoSettings()), (3e-4, 1e-3, 3e-3), 0.5, 4)

    def items(self, adapter: str, materials: Materials, training: Training) -> Sequence[Item]:
        return [Item.of(forget=[example_of(sequence)]) for sequence in materials.forget]

    def model(
        self, base: ModelRef, adapters: Mapping[str, Adapter], strength: float, folder: Path
    ) -> ModelRef:
        return base.plus(strength, adapters["unlearnt"])
