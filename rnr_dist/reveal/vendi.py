"""Vendi score: how many different things a set of texts says (Friedman and Dieng, 2023).

In: embeddings, summed to d x d second moments. Out: diversity, normalised to [0, 1]. Invariant: the
spectrum of X^T X / n is that of the n x n similarity matrix X X^T / n, so the cost is O(d^3)
however many items a set holds.
"""

from __future__ import annotations

import math

import numpy as np


class SecondMoment:
    """Sum of x x^T over the unit-normalised embeddings of a set of texts.

    sum: (d, d) float64. count: number of items. All that diversity needs to know of a forget set.
    """

    def __init__(self, dimension: int) -> None:
        self.sum = np.zeros((dimension, dimension))
        self.count = 0

    @property
    def dimension(self) -> int:
        return len(self.sum)

    def add(self, embeddings: np.ndarray) -> SecondMoment:
        """Count in (n, d) embeddings, each brought to unit length; returns self.

        Raises ValueError where an embedding has no direction (zero, NaN or infinite).
        """
        rows = np.asarray(embeddings, dtype=np.float64)
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        usable = np.isfinite(lengths) & (lengths > 0)
        if not usable.all():
            row = int(np.argmin(usable))
            raise ValueError(f"embedding {row} has length {lengths[row, 0]}, expected above 0")
        # Embeddings may be stored in half precision: without this the eigenvalues of S/n would
        # not sum to 1 and be no distribution.
        rows = rows / lengths
        self.sum += rows.T @ rows
        self.count += len(rows)
        return self

    def copy(self) -> SecondMoment:
        twin = SecondMoment(self.dimension)
        twin.sum, twin.count = self.sum.copy(), self.count
        return twin


def vendi(moment: SecondMoment) -> float:
    """Vendi score of a set, from 1 (all alike) to min(n, d): its effective number of items.

    exp of the Shannon entropy (natural log) of the eigenvalues of S/n (paper section 3.1).
    Raises ValueError for the empty set, which has no spectrum.
    """
    return _effective_rank(_mean(moment))


def normalised(vs: float, n: int, d: int) -> float:
    """log VS / log min(n, d) in [0, 1]; 0 where fewer than two directions are possible.

    Puts diversity on the scale of relevance; in the raw formula v_t is at least 1 and the score is
    relevance alone, nearly.
    """
    most = min(n, d)
    if most < 2:
        return 0.0
    return float(np.clip(math.log(vs) / math.log(most), 0.0, 1.0))


def union(batch: SecondMoment, forget_set: SecondMoment) -> float:
    """Normalised Vendi(y_t u D) as Algorithm 1, line 11, has it (`paper` mode).

    It goes blind as D grows: a batch is lost among thousands of items.
    """
    together = batch.copy()
    together.sum += forget_set.sum
    together.count += forget_set.count
    return normalised(vendi(together), together.count, together.dimension)


def weighted(batch: SecondMoment, forget_set: SecondMoment, w: float) -> float:
    """Normalised Vendi of (1-w) S_D/|D| + w S_y/|y|: the batch counts w however large D is.

    w: share of the batch, in [0, 1]. With an empty D it is the batch alone.
    """
    spectrum = _mean(batch)
    if forget_set.count:
        spectrum = (1 - w) * _mean(forget_set) + w * spectrum
    count = forget_set.count + batch.count
    return normalised(_effective_rank(spectrum), count, batch.dimension)


def _mean(moment: SecondMoment) -> np.ndarray:
    if not moment.count:
        raise ValueError("no embeddings: the Vendi score of an empty set is undefined")
    return moment.sum / moment.count


def _effective_rank(density: np.ndarray) -> float:
    eigenvalues = np.linalg.eigvalsh(density)
    positive = eigenvalues[eigenvalues > 0]
    return float(np.exp(-(positive * np.log(positive)).sum()))
