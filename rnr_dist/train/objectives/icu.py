"""ICU's objective (Tang et al., Eq. 6): L_fgt + alpha L_lrn + beta L_kl.

In: items of a `forget` sequence, its `learn` pairs and what else to `retain`. Out: `forget`, the
target's log-likelihood (so it is minimised), a token's only to its ceiling; `learn`, the pairs'
cross-entropy; `kl`, KL(theta0 || theta) on the pairs and on what is retained. Invariant: a term
whose weight is 0 is not computed; with `reduction: sequence` a mean is over sequences, of their
sums over t.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rnr_dist.config.objectives import IcuObjective
from rnr_dist.train.collate import IGNORED, Example, Item
from rnr_dist.train.passes import label_losses, label_states, predicted
from rnr_dist.train.trainable import Trained

TERMS = {"forget": ("forget",), "learn": ("learn",), "kl": ("learn", "retain")}  # and their roles


class Icu:
    """Forget the target, learn the analogous sequences, stay at theta0 on them."""

    def __init__(self, settings: IcuObjective):
        self.settings = settings
        self.roles: dict[str, tuple[int, int]] = {"forget": (1, 1), "learn": (0, 64)}
        if settings.kl_weight and settings.retain:  # a role costs a pass, also an empty one
            self.roles["retain"] = (0, settings.retain)
        held = [role for role in TERMS["kl"] if role in self.roles]
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
                for role in TERMS[name]
                for example in item[role]
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
            nll, _ = losses(trained, batch["forget"])
            terms["forget"] = (-weights["forget"] * nll, self._counted(batch["forget"]))
        if "learn" in weights or "kl" in weights:
            rows = batch["learn"]
            nll, divergence = losses(trained, rows, bool(self.remembered), entropy)
            for name, value in (("learn", nll), ("kl", divergence)):
                if name in weights:
                    terms[name] = (weights[name] * value, self._counted(rows))
        if "retain" in self.roles:
            rows = batch["retain"]
            _, divergence = losses(trained, rows, True, entropy)
            value, count = terms["kl"]
            terms["kl"] = (value + weights["kl"] * divergence, count + self._counted(rows))
        return terms

    def _counted(self, rows: Mapping[str, Any]) -> int:
        learnt = rows["labels"] != IGNORED
        return int(learnt.sum() if self.settings.reduction == "token" else learnt.any(1).sum())


def losses(
    trained: Trained,
    rows: Mapping[str, Any],
    before: bool = False,
    with_entropy: bool = False,
) -> tuple[Any, Any]:
    """Sums over the labels of a role: -log q, each at most its ceiling where the rows have some,
    and KL (or H) against theta0 if it is asked for."""
    # theta0 first: nothing of the trained model's graph exists yet while it is switched off.
    other = (trained.reference_head, trained.reference_states(rows)) if before else None
    states = label_states(trained.model, rows)
    targets = rows["labels"][:, 1:][predicted(rows)]
    ends = rows["ceilings"][:, 1:][predicted(rows)] if "ceilings" in rows else None
    return label_losses(trained.head, states, targets, other, with_entropy, ends)
