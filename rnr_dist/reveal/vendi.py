"""Vendi score: how many different things a set of texts says (Friedman and Dieng, 2023).

In: embeddings, of the forget set summed to d x d second moments. Out: diversity. Invariant: the
spectrum of X^T X / n is that of the n x n similarity matrix X X^T / n, so the cost does not depend
on how many items a set holds.
"""

from __future__ import annotations

import math

import numpy as np

from rnr_dist.reveal.entropy import entropy, updated_entropy

# A batch of n rows is an update of low rank where n <= d / 16; above, O(d^3) is cheaper.
LOW_RANK = 16


def unit_rows(embeddings: np.ndarray) -> np.ndarray:
    """(n, d) float64 embeddings brought to unit length.

    Raises ValueError where an embedding has no direction (zero, NaN or infinite).
    """
    rows = np.asarray(embeddings, dtype=np.float64)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    usable = np.isfinite(lengths) & (lengths > 0)
    if not usable.all():
        row = int(np.argmin(usable))
        raise ValueError(f"embedding {row} has length {lengths[row, 0]}, expected above 0")
    # Embeddings may be stored in half precision: without this the eigenvalues of S/n would not
    # sum to 1 and be no distribution.
    return rows / lengths


class SecondMoment:
    """Sum of x x^T over the unit-normalised embeddings of a set of texts.

    sum: (d, d) float64. count: number of items. All that diversity needs to know of a forget set.
    """

    def __init__(self, dimension: int) -> None:
        self.sum = np.zeros((dimension, dimension))
        self.count = 0
        self._basis: tuple[np.ndarray, np.ndarray] | None = None

    @property
    def dimension(self) -> int:
        return len(self.sum)

    def add(self, embeddings: np.ndarray) -> SecondMoment:
        """Count in (n, d) embeddings, each brought to unit length; returns self."""
        rows = unit_rows(embeddings)
        self.sum += rows.T @ rows
        self.count += len(rows)
        self._basis = None
        return self

    def basis(self) -> tuple[np.ndarray, np.ndarray]:
        """Eigenvalues (d,) and eigenvectors (d, d) of S/n, computed once between additions."""
        if self._basis is None:
            values, vectors = np.linalg.eigh(self.mean())
            self._basis = values, vectors
        return self._basis

    def mean(self) -> np.ndarray:
        """S/n. Raises ValueError for the empty set, which has no spectrum."""
        if not self.count:
            raise ValueError("no embeddings: the Vendi score of an empty set is undefined")
        return self.sum / self.count


def vendi(density: np.ndarray) -> float:
    """Vendi score of a set, from 1 (all alike) to min(n, d): its effective number of items.

    density: S/n (d, d), or the Gram matrix over n (n, n), which has the same spectrum but for
    zeros. exp of the Shannon entropy (natural log) of the eigenvalues (paper section 3.1).
    """
    return math.exp(entropy(np.linalg.eigvalsh(density)))


def normalised_vendi(vs: float, n: int, d: int) -> float:
    """log VS / log min(n, d) in [0, 1]; 0 where fewer than two directions are possible.

    Puts diversity on the scale of relevance; in the raw formula v_t is at least 1 and the score is
    relevance alone, nearly.
    """
    most = min(n, d)
    if most < 2:
        return 0.0
    return float(np.clip(math.log(vs) / math.log(most), 0.0, 1.0))


def union_raw(batch: np.ndarray, forget_set: SecondMoment) -> float:
    """Vendi(y_t u D) as Algorithm 1, line 11, has it: from 1 to min(n, d)."""
    share = len(batch) / (len(batch) + forget_set.count)
    return _mixture(batch, forget_set, share)


def union(batch: np.ndarray, forget_set: SecondMoment) -> float:
    """`union_raw`, normalised.

    It goes blind as D grows: a batch is lost among thousands of items.
    """
    count = forget_set.count + len(batch)
    return normalised_vendi(union_raw(batch, forget_set), count, forget_set.dimension)


def weighted(batch: np.ndarray, forget_set: SecondMoment, w: float) -> float:
    """Normalised Vendi of (1-w) S_D/|D| + w S_y/|y|: the batch counts w however large D is.

    batch: (n, d) embeddings. w: share of the batch, in [0, 1]. With an empty D it is the batch
    alone.
    """
    count = forget_set.count + len(batch)
    return normalised_vendi(_mixture(batch, forget_set, w), count, forget_set.dimension)


def _mixture(batch: np.ndarray, forget_set: SecondMoment, w: float) -> float:
    """exp of the entropy of (1-w) S_D/|D| + w S_y/|y|."""
    rows = unit_rows(batch) / math.sqrt(len(batch))
    if not forget_set.count:
        gram = rows @ rows.T if len(rows) < rows.shape[1] else rows.T @ rows
        return vendi(gram)
    if LOW_RANK * len(rows) > rows.shape[1]:
        density = (1 - w) * forget_set.mean() + w * rows.T @ rows
        return vendi(density)
    values, vectors = forget_set.basis()
    return math.exp(updated_entropy((1 - w) * values, math.sqrt(w) * rows @ vectors))
