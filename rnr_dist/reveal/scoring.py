"""From a pull's stored embeddings and relevance to its score under the current forget set.

In: embeddings, mean relevance, D's second moment. Out: score and diversity. Invariant: a score
depends on nothing else, so when D grows all history is rescored without a model call.
"""

from __future__ import annotations

import numpy as np

from rnr_dist.config.base import Diversity
from rnr_dist.reveal import vendi
from rnr_dist.reveal.vendi import SecondMoment

EPSILON = 1e-3  # a zero in either part would otherwise divide by zero and hide the other part


def harmonic(relevance: float, diversity: float, alpha: float) -> float:
    """Weighted harmonic mean (alpha/v + (1-alpha)/tau)^-1 (Algorithm 1, line 12).

    relevance: tau in [0, 1]. diversity: v, in [0, 1] where normalised, at least 1 where not: the
    score then lies from 1/(alpha + (1-alpha)/tau) to tau/(1-alpha), so also above 1. alpha: weight
    of diversity, in [0, 1]; 0 gives tau, 1 gives v. Both are clamped to EPSILON from below.
    """
    return 1 / (alpha / max(diversity, EPSILON) + (1 - alpha) / max(relevance, EPSILON))


def score_batch(
    embeddings: np.ndarray,
    relevance: float,
    forget_set: SecondMoment,
    alpha: float,
    diversity: Diversity,
    batch_weight: float,
) -> tuple[float, float]:
    """(score, diversity) of one pull under the forget set so far (Algorithm 1, lines 10-12).

    embeddings: (n, d), one row a response that says something; none of them has no diversity.
    relevance: their mean oracle score, in [0, 1]. `union` is the diversity of y_t and D together,
    `union_raw` without normalisation, as the algorithm is written; `weighted` lets the batch count
    `batch_weight` however large D is.
    """
    if not len(embeddings):
        found = 0.0
    elif diversity == "weighted":
        found = vendi.weighted(embeddings, forget_set, batch_weight)
    elif diversity == "union":
        found = vendi.union(embeddings, forget_set)
    else:
        found = vendi.union_raw(embeddings, forget_set)
    return harmonic(relevance, found, alpha), found
