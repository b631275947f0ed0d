"""Each forget sequence's analogous ones: ICU's contrastive learning enhancement (Eq. 2).

In: unit-length embeddings of forget sequences and pool, and their texts. Out: pairs with their
cosine. Invariant: the pool's order decides between equals; with content exclusion on, no pair
shares a run of words, so that learning the pair can't take back the forgetting.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from rnr_dist.config.unlearning import Pairing
from rnr_dist.data.words import words as words_of
from rnr_dist.errors import InputError
from rnr_dist.types import TokenSequence

CELLS_PER_ROOT = 4  # cells of the approximate index, by the root of the pool's size
PROBED = 16  # cells that it looks into
FORM = 2  # of 64 built-in records 19 share no 8 words in a row with any of 32 others, 60 no 16
WIDER = 8  # neighbours asked for at first, by k, since exclusion drops some


@dataclass(frozen=True)
class Pair:
    """A forget sequence, one of the pool, and the cosine of their embeddings."""

    forget: str
    learn: str
    cosine: float


def pair_up(
    forget: Sequence[TokenSequence],
    pool: Sequence[TokenSequence],
    vectors: tuple[np.ndarray, np.ndarray],
    settings: Pairing,
) -> list[Pair]:
    """The `settings.k` nearest of the pool for each forget sequence, nearest first.

    vectors: (forget, d) and (pool, d), unit rows. Raises InputError where the pool is too small, or
    has too little left after exclusion.
    """
    if len(pool) < settings.k:
        raise InputError(
            f"pairing.k: found {len(pool)} texts to pair with, expected at least {settings.k}"
        )
    index = make_index(vectors[1], settings.approximate_above)
    wanted = min(len(pool), settings.k * WIDER)
    pairs: list[Pair] = []
    for place, sequence in enumerate(forget):
        width = wanted
        while True:
            cosines, nearest = index.search(vectors[0][place : place + 1], width)
            chosen = [
                Pair(sequence.id, pool[at].id, float(cosine))
                for cosine, at in zip(cosines[0], nearest[0], strict=True)
                if at >= 0 and _allowed(sequence, pool[at], settings)
            ][: settings.k]
            if len(chosen) == settings.k or width == len(pool):
                break
            width = min(len(pool), width * WIDER)
        require_left(sequence, len(chosen), len(pool), settings)
        pairs += chosen
    return pairs


def check_exclusion(
    forget: Sequence[TokenSequence], pool: Sequence[TokenSequence], settings: Pairing
) -> None:
    """Raises InputError where content exclusion leaves a sequence less than `settings.k` pairs.

    Needs no embedding, so that it is known before anything is memorised.
    """
    for sequence in forget:
        allowed = (other for other in pool if _allowed(sequence, other, settings))
        require_left(sequence, len([*islice(allowed, settings.k)]), len(pool), settings)


def require_left(sequence: TokenSequence, left: int, pool: int, settings: Pairing) -> None:
    """Raises InputError where fewer than `settings.k` of the pool are left for a sequence."""
    if left < settings.k:
        raise InputError(
            f"pairing: {left} of {pool} pool sequences are left for the sequence {sequence.id} "
            f"({sequence.text[:40]!r}) after content exclusion; expected pairing.k {settings.k}"
        )


def apart(
    pool: Sequence[TokenSequence], forget: Sequence[TokenSequence], settings: Pairing
) -> list[TokenSequence]:
    """Those of the pool that may be held at theta0 whatever is forgotten.

    With content exclusion on none shares FORM times `settings.exclude_words` words in a row with
    any of `forget`. Shorter runs are the form of such texts, which is what must be held.
    """
    if not settings.exclude_content:
        return list(pool)
    words = FORM * settings.exclude_words
    said = set().union(*(_runs(sequence.text, words) for sequence in forget))
    return [other for other in pool if said.isdisjoint(_runs(other.text, words))]


def make_index(vectors: np.ndarray, approximate_above: int) -> Any:
    """A faiss index of inner products: exact, or an inverted file above that many vectors.

    On CPUs, also beside GPUs: the driver holds none, search there limits k, and faiss's build for
    them brings other CUDA libraries than torch's. A million vectors are searched in a second.
    """
    import faiss

    vectors = np.ascontiguousarray(vectors, np.float32)
    size = vectors.shape[1]
    index: Any = faiss.IndexFlatIP(size)
    if len(vectors) > approximate_above:
        cells = max(1, int(CELLS_PER_ROOT * len(vectors) ** 0.5))
        index = faiss.IndexIVFFlat(index, size, cells, faiss.METRIC_INNER_PRODUCT)
        index.nprobe = PROBED
    if not index.is_trained:
        index.train(vectors)
    index.add(vectors)
    return index


def _allowed(one: TokenSequence, other: TokenSequence, settings: Pairing) -> bool:
    if one.id == other.id:  # the sequence itself is none of its pairs, whatever the settings
        return False
    return not settings.exclude_content or not shares_words(
        one.text, other.text, settings.exclude_words
    )


def shares_words(one: str, other: str, words: int) -> bool:
    """Whether the texts have that many words in a row in common, case and spacing aside."""
    return not _runs(one, words).isdisjoint(_runs(other, words))


def _runs(text: str, words: int) -> set[tuple[str, ...]]:
    found = words_of(text.casefold())
    if len(found) < words:
        return {tuple(found)}
    return {tuple(found[i : i + words]) for i in range(len(found) - words + 1)}
