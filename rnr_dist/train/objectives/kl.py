"""Gradient ascent held by a divergence (Maini et al., 2024): -CE on the target, KL on the pairs.

In: items of a `forget` sequence, its `learn` pairs and what else to `retain`. Out: `forget` and
`kl` as ICU's. Invariant: ICU without L_lrn; only which of a sequence's tokens count differs
(config: `whole`).
"""

from __future__ import annotations

from rnr_dist.config.objectives import IcuObjective, KlObjective
from rnr_dist.train.objectives.icu import Icu


class Kl(Icu):
    """ICU with alpha = 0."""

    def __init__(self, settings: KlObjective):
        super().__init__(
            IcuObjective(learn_weight=0, kl_weight=settings.kl_weight, retain=settings.retain)
        )
