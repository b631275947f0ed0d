"""Direct preference optimisation (Rafailov et al., 2023), and a retain loss if wanted.

In: items of a `chosen` and a `rejected` example, with `retain_weight` also of at most one `retain`.
Out: `dpo`, a mean over pairs, -log sigma(beta [(log pi - log pi_0)(chosen) - (log pi - log pi_0)
(rejected)]), log pi summed over the response; `retain`, nats a token. Invariant: log 2 at theta0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from rnr_dist.config.base import Positive, Weight
from rnr_dist.config.methods import MethodSettings, Way, by_epochs, by_merge
from rnr_dist.config.training import ObjectiveSettings, Training
from rnr_dist.errors import InputError
from rnr_dist.train.collate import Item
from rnr_dist.train.materials import Materials, Need, example_of
from rnr_dist.train.passes import has_response, log_probability, token_nll
from rnr_dist.types import Adapter, ModelRef, Side

if TYPE_CHECKING:
    from rnr_dist.train.trainable import Trained


class DpoSettings(ObjectiveSettings):
    """Direct preference optimisation: prefer the chosen response to the rejected one."""

    name: Literal["dpo"] = "dpo"
    beta: Positive = 0.1
    """Weight of the log-ratios (nats) against theta0; larger stays closer to it."""
    retain_weight: Weight = 0.0
    """Weight of the cross-entropy (nats a token) of retain texts; 0 takes none."""


class DpoObjective:
    """Prefers the chosen response to the rejected one, measured from theta0."""

    Settings = DpoSettings
    remembered = ("chosen", "rejected")

    def __init__(self, settings: DpoSettings):
        self.settings = settings
        self.parts: dict[str, tuple[int, int]] = {"chosen": (1, 1), "rejected": (1, 1)}
        if settings.retain_weight:
            self.parts["retain"] = (0, 1)

    def counts(self, items: Sequence[Item]) -> dict[str, int]:
        sides = [[*item["chosen"], *item["rejected"]] for item in items]
        counts = {"dpo": sum(all(example.labels for example in pair) for pair in sides)}
        if self.settings.retain_weight:
            counts["retain"] = sum(text.labels for item in items for text in item["retain"])
        return counts

    def terms(
        self, trained: Trained, batch: Mapping[str, Mapping[str, Any]]
    ) -> dict[str, tuple[Any, int]]:
        from torch.nn.functional import logsigmoid

        # theta0 first: nothing of the trained model's graph exists yet while it is switched off.
        before = margin(trained.reference_nll, batch)
        gained = margin(lambda rows: token_nll(trained, rows)[:2], batch) - before
        # A response that was cut away altogether has no say.
        paired = has_response(batch["chosen"]) & has_response(batch["rejected"])
        loss = -logsigmoid(self.settings.beta * gained)[paired].sum()
        terms = {"dpo": (loss, int(paired.sum()))}
        if self.settings.retain_weight:
            nll, _, _ = token_nll(trained, batch["retain"])
            terms["retain"] = (self.settings.retain_weight * nll.sum(), len(nll))
        return terms


def margin(nll: Callable[..., tuple[Any, Any]], batch: Mapping[str, Mapping[str, Any]]) -> Any:
    """(pairs,) log pi(chosen) - log pi(rejected), each the sum over its response.

    nll: of each label of some rows, and its row.
    """
    return log_probability(nll, batch["chosen"]) - log_probability(nll, batch["rejected"])


class Dpo:
    """A pair a forget sequence: rejected the sequence, chosen its best other response. A sequence
    that is met again takes the next one, so that no chosen text outweighs the others."""

    name: ClassVar[str] = "dpo"
    needs: ClassVar[frozenset[Need]] = frozenset({"forget", "alternatives"})
    Objective = DpoObjective
    adapters: ClassVar[Mapping[str, Side]] = {"preferred": "retain"}
    refined: ClassVar[bool] = False

    @classmethod
    def settings(cls, way: Way) -> MethodSettings:
        if way == "epochs":
            return by_epochs(DpoSettings())
        return by_merge(Training(objective=DpoSettings()), (3e-4, 1e-3, 3e-3), 0.5, 4)

    def items(self, adapter: str, materials: Materials, training: Training) -> Sequence[Item]:
        met: Counter[str] = Counter()
        items = []
        for sequence in materials.forget:
            others = materials.alternatives.get(sequence.id, ())
            if not others:
                continue
            chosen = others[met[sequence.id] % len(others)]
            met[sequence.id] += 1
            items.append(Item.of(chosen=[chosen], rejected=[example_of(sequence)]))
        if not items:
            raise InputError(
                f"method dpo: none of {len(materials.forget)} forget sequences has an alternative, "
                "a response to its prompt that holds less of the target; expected some"
            )
        return items

    def model(
        self, base: ModelRef, adapters: Mapping[str, Adapter], strength: float, folder: Path
    ) -> ModelRef:
        return base.plus(strength, adapters["preferred"])
