"""ICU (Tang et al., Eq. 6): L_fgt + alpha L_lrn + beta L_kl, on a target and its analogous pairs.

In: items of a `forget` sequence, its `learn` pairs and what else to `retain`. Out: `forget`, the
target's log-likelihood (so it is minimised), a token's only to its ceiling; `learn`, the pairs'
cross-entropy; `kl`, KL(theta0 || theta) on the pairs and on what is retained. Invariant: a term
whose weight is 0 is not computed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from rnr_dist.config.base import Flag, Positive, Weight
from rnr_dist.config.methods import MethodSettings, Way, by_epochs, by_merge
from rnr_dist.config.training import ObjectiveSettings, Retained, Training
from rnr_dist.errors import InputError
from rnr_dist.train.collate import Example, Item
from rnr_dist.train.materials import Materials, Need, example_of
from rnr_dist.train.passes import has_response, label_count, part_losses
from rnr_dist.types import Adapter, ModelRef, Side

if TYPE_CHECKING:
    from rnr_dist.train.trainable import Trained

TERMS = {"forget": ("forget",), "learn": ("learn",), "kl": ("learn", "retain")}  # and their parts


class IcuSettings(ObjectiveSettings):
    """ICU (Eq. 6): forget the target, learn its pairs, stay at theta0 on them."""

    name: Literal["icu"] = "icu"
    head_alone: ClassVar[bool] = True
    forget_weight: Weight = 1.0
    """Weight of the target's log-likelihood, L_fgt; 0 switches the term off."""
    learn_weight: Weight = 0.5
    """alpha: weight of the pairs' cross-entropy, L_lrn."""
    kl_weight: Weight = 1.0
    """beta: weight of KL(theta0 || theta) on the pairs and on what is retained, L_kl."""
    retain: Retained = 3
    """Further texts a target that L_kl holds at theta0, of those that stay and of general text,
    others in each epoch where it is trained by epochs; 0 leaves L_kl to the pairs (the paper's)."""
    reduction: Literal["token", "sequence"] = "token"
    """A term's mean: over valid tokens, or over sequences of the sum over t (the paper's)."""
    divergence: Literal["kl", "cross_entropy"] = "kl"
    """`cross_entropy`: H(theta0, theta), the reference code's K: KL plus a constant."""
    whole: Flag = False
    """All tokens count, not only those from t0 on."""
    ceiling: Positive | None = None
    """Nats of -log q from which on a token of the target is pushed no further, as it is forgotten:
    one that was never seen has some 3 where the model is wrong. null: no end (the papers')."""
    natural: Flag = False
    """true: a token's ceiling is theta0's mean -log q of the same token in never-seen sequences,
    where they hold it and that is below `ceiling`. What any text of the form says stays likely;
    names and numbers go."""


class IcuObjective:
    """Forget the target, learn the analogous sequences, stay at theta0 on them.

    With `reduction: sequence` a mean is over sequences, of their sums over t.
    """

    Settings = IcuSettings

    def __init__(self, settings: IcuSettings):
        self.settings = settings
        self.parts: dict[str, tuple[int, int]] = {"forget": (1, 1), "learn": (0, 64)}
        if settings.kl_weight and settings.retain:  # a part costs a pass, also an empty one
            self.parts["retain"] = (0, settings.retain)
        held = [part for part in TERMS["kl"] if part in self.parts]
        self.remembered = tuple(held) if settings.kl_weight else ()
        weights = {
            "forget": settings.forget_weight,
            "learn": settings.learn_weight,
            "kl": settings.kl_weight,
        }
        self.weights = {name: weight for name, weight in weights.items() if weight}

    def counts(self, items: Sequence[Item]) -> dict[str, int]:
        return {
            name: sum(
                self._count(example)
                for item in items
                for part in TERMS[name]
                for example in item[part]
            )
            for name in self.weights
        }

    def _count(self, example: Example) -> int:
        by_token = self.settings.reduction == "token"
        return example.labels if by_token else int(example.labels > 0)

    def terms(
        self, trained: Trained, batch: Mapping[str, Mapping[str, Any]]
    ) -> dict[str, tuple[Any, int]]:
        weights, terms = self.weights, {}
        entropy = self.settings.divergence == "cross_entropy"
        if "forget" in weights:
            nll, _ = part_losses(trained, batch["forget"])
            terms["forget"] = (-weights["forget"] * nll, self._counted(batch["forget"]))
        if "learn" in weights or "kl" in weights:
            rows = batch["learn"]
            nll, divergence = part_losses(trained, rows, bool(self.remembered), entropy)
            for name, value in (("learn", nll), ("kl", divergence)):
                if name in weights:
                    terms[name] = (weights[name] * value, self._counted(rows))
        if "retain" in self.parts:
            rows = batch["retain"]
            _, divergence = part_losses(trained, rows, True, entropy)
            value, count = terms["kl"]
            terms["kl"] = (value + weights["kl"] * divergence, count + self._counted(rows))
        return terms

    def _counted(self, rows: Mapping[str, Any]) -> int:
        by_token = self.settings.reduction == "token"
        return label_count(rows) if by_token else int(has_response(rows).sum())


class Icu:
    """An item a forget sequence with its nearest pairs, which are learnt and held."""

    name: ClassVar[str] = "icu"
    needs: ClassVar[frozenset[Need]] = frozenset({"forget", "pairs", "retain"})
    Objective = IcuObjective
    adapters: ClassVar[Mapping[str, Side]] = {"unlearnt": "forget"}
    refined: ClassVar[bool] = True

    @classmethod
    def settings(cls, way: Way) -> MethodSettings:
        """Weights and ceiling by epochs as measured in docs/icu.md, the papers' by their presets.
        A prompt that others share is not what must be forgotten: merged, responses alone count."""
        if way == "epochs":
            return by_epochs(IcuSettings(whole=True, kl_weight=4, ceiling=2, natural=True))
        objective = IcuSettings(kl_weight=4, ceiling=2, retain=1)
        return by_merge(Training(objective=objective), (1e-4, 3e-4, 1e-3), 0.5, 4)

    def items(self, adapter: str, materials: Materials, training: Training) -> Sequence[Item]:
        settings = training.objective
        assert isinstance(settings, IcuSettings)
        require_pairs(self.name, materials)
        items = []
        for sequence in materials.forget:
            target = example_of(sequence, settings.whole)
            ends = ceilings(sequence.token_ids, settings, materials.token_nats)
            target = Example(target.token_ids, target.prompt_tokens, ends)
            learn = materials.paired(sequence, settings.whole)
            items.append(Item.of(forget=[target], learn=learn))
        return items

    def model(
        self, base: ModelRef, adapters: Mapping[str, Adapter], strength: float, folder: Path
    ) -> ModelRef:
        return base.plus(strength, adapters["unlearnt"])


def ceilings(
    token_ids: Sequence[int], settings: IcuSettings, token_nats: Mapping[int, float]
) -> tuple[float, ...]:
    """Nats up to which each token is pushed; none where there is no end.

    token_nats: by token id, what never-seen sequences have.
    """
    rest = math.inf if settings.ceiling is None else settings.ceiling
    known = token_nats if settings.natural else {}
    found = tuple(min(rest, known.get(token, math.inf)) for token in token_ids)
    return found if any(map(math.isfinite, found)) else ()


def require_pairs(name: str, materials: Materials) -> None:
    """Raises InputError where no forget sequence has a pair."""
    if not any(materials.pairs.get(sequence.id) for sequence in materials.forget):
        raise InputError(
            f"method {name}: none of {len(materials.forget)} forget sequences has a pair; expected "
            "retained texts to pair them with"
        )
