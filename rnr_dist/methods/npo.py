"""NPO, negative preference optimisation (Zhang et al., 2024), with a retain loss.

In: items of a `forget` sequence and what else to `retain`. Out: `npo`, a mean over sequences,
2/beta log(1 + (pi/pi_0)^beta), pi the probability of the whole response given its prompt; `retain`,
nats a token. Invariant: 2/beta log 2 at theta0; the further a sequence is forgotten, the weaker it
is pushed, so that it has a floor, 0, which gradient ascent lacks.
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
from rnr_dist.train.passes import has_response, log_probability, token_nll
from rnr_dist.types import Adapter, ModelRef, Side

if TYPE_CHECKING:
    from rnr_dist.train.trainable import Trained


class NpoSettings(ObjectiveSettings):
    """Negative preference optimisation: the forget sequences are responses that nobody prefers."""

    name: Literal["npo"] = "npo"
    beta: Positive = 0.1
    """Weight of the log-ratio (nats) against theta0; near 0 it is gradient ascent."""
    retain_weight: Weight = 1.0
    """Weight of the cross-entropy (nats a token) of what is retained; 0 takes none."""
    retain: Retained = 1
    """Texts an item that are retained, others in each epoch where it is trained by epochs."""


class NpoObjective:
    """Makes the target less likely than theta0 has it, the less eagerly the further it is."""

    Settings: type[NpoSettings] = NpoSettings
    remembered: tuple[str, ...] = ("forget",)

    def __init__(self, settings: NpoSettings):
        self.settings = settings
        self.parts: dict[str, tuple[int, int]] = {"forget": (1, 1)}
        if settings.retain_weight and settings.retain:
            self.parts["retain"] = (0, settings.retain)

    def counts(self, items: Sequence[Item]) -> dict[str, int]:
        sequences = sum(x.labels > 0 for item in items for x in item["forget"])
        counts: dict[str, int] = {self.settings.name: sequences}
        if "retain" in self.parts:
            counts["retain"] = sum(text.labels for item in items for text in item["retain"])
        return counts

    def terms(
        self, trained: Trained, batch: Mapping[str, Mapping[str, Any]]
    ) -> dict[str, tuple[Any, int]]:
        rows = batch["forget"]
        told = has_response(rows)
        lost = self.losses(trained, rows)[told].sum()
        terms: dict[str, tuple[Any, int]] = {self.settings.name: (lost, int(told.sum()))}
        if "retain" in self.parts:
            nll, _, _ = token_nll(trained, batch["retain"])
            terms["retain"] = (self.settings.retain_weight * nll.sum(), len(nll))
        return terms

    def losses(self, trained: Trained, rows: Mapping[str, Any]) -> Any:
        """(B,) loss of each sequence, nats."""
        from torch.nn.functional import softplus

        beta = self.settings.beta
        # theta0 first: nothing of the trained model's graph exists yet while it is switched off.
        before = log_probability(trained.reference_nll, rows)
        gained = log_probability(lambda rows: token_nll(trained, rows)[:2], rows) - before
        return 2 / beta * softplus(beta * gained)


class Npo:
    """An item a forget sequence; its prompt is given, its response is forgotten."""

    name: ClassVar[str] = "npo"
    needs: ClassVar[frozenset[Need]] = frozenset({"forget", "retain"})
    Objective = NpoObjective
    adapters: ClassVar[Mapping[str, Side]] = {"unlearnt": "forget"}
    refined: ClassVar[bool] = False

    @classmethod
    def settings(cls, way: Way) -> MethodSettings:
        """Its paper's rate (1e-5) and beta."""
        if way == "epochs":
            return by_epochs(NpoSettings())
        return by_merge(Training(objective=NpoSettings()), (3e-4, 1e-3, 3e-3), 0.5, 4)

    def items(self, adapter: str, materials: Materials, training: Training) -> Sequence[Item]:
        return [Item.of(forget=[example_of(sequence)]) for sequence in materials.forget]

    def model(
        self, base: ModelRef, adapters: Mapping[str, Adapter], strength: float, folder: Path
    ) -> ModelRef:
        return base.plus(strength, adapters["unlearnt"])
