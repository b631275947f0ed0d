"""From a pull's stored embeddings and relevance to its score under the current forget set.

In: embeddings, mean relevance, D's second moment. Out: score and diversity. Invariant: a score
depends on nothing else, so when D grows all history is rescored without a model call.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from rnr_dist.reveal import vendi
from rnr_dist.reveal.vendi import SecondMoment

EPSILON = 1e-3  # a zero in either part would otherwise divide by zero and hide the other part


def harmonic(relevance: float, diversity: float, alpha: float) -> float:
    """Weighted harmonic mean (alpha/v + (1-alpha)/tau)^-1 (Algorithm 1, line 12).

    relevance: tau in [0, 1]. diversity: normalised v in [0, 1]. alpha: weight of diversity, in
    [0, 1]; 0 gives tau, 1 gives v. Both are clamped to EPSILON from below.
    """
    return 1 / (alpha / max(diversity, EPSILON) + (1 - alpha) / max(relevance, EPSILON))


def score_batch(
    embeddings: np.ndarray,
    relevance: float,
    forget_moment: SecondMoment,
    alpha: float,
    mode: Literal["default", "paper"],
    batch_weight: float,
) -> tuple[float, float]:
    """(score, diversity) of one pull under the forget set so far (Algorithm 1, lines 10-12).

    embeddings: (n, d), one row a response, n >= 1. relevance: their mean oracle score, in [0, 1].
    `paper` measures diversity of the union with D; `default` weighs the batch by `batch_weight`.
    """
    batch = SecondMoment(forget_moment.dimension).add(embeddings)
    if mode == "paper":
        diversity = vendi.union(batch, forget_moment)
    else:
        diversity = vendi.weighted(batch, forget_moment, batch_weight)
    return harmonic(relevance, diversity, alpha), diversity
