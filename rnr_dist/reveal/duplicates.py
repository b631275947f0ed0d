"""Near-duplicates of the forget set, found by Faiss.

In: unit-length embeddings, old and new. Out: which new ones are novel. Invariant: no two rows that
stay are closer than the threshold.
"""

from __future__ import annotations

import numpy as np


def novel_rows(rows: np.ndarray, known: np.ndarray, threshold: float | None) -> list[int]:
    """Positions of `rows` whose cosine to `known` and to earlier kept rows is at most `threshold`.

    rows: (n, d), known: (m, d), of unit length. None as threshold keeps all.
    """
    if threshold is None or not len(rows):
        return list(range(len(rows)))
    import faiss

    index = faiss.IndexFlatIP(rows.shape[1])
    if len(known):
        index.add(np.ascontiguousarray(known, dtype=np.float32))
    kept = []
    for position, row in enumerate(np.ascontiguousarray(rows, dtype=np.float32)):
        if index.ntotal and index.search(row[None], 1)[0][0, 0] > threshold:
            continue
        index.add(row[None])
        kept.append(position)
    return kept
