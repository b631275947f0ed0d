"""The guards of design decision 8: an output that is empty or loops has not forgotten.

In: samples. Out: per-context measures. Invariant: computed on token ids, all models alike.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from rnr_dist.stats import ClusterMean
from rnr_dist.types import Context, Sample


def fluency_measures(samples: Sequence[Sample], order: Sequence[Context]) -> dict[str, ClusterMean]:
    """empty_share, mean_length (tokens), entropy (bits), distinct_2 and distinct_3.

    entropy: of the empirical token distribution of all continuations of a context, since a model
    that says one thing only is as broken as one that repeats a word. distinct_n: distinct n-grams
    over all n-grams of a context's continuations.
    """
    held: dict[str, list[Sample]] = {context.id: [] for context in order}
    for sample in samples:
        if sample.context_id in held:
            held[sample.context_id].append(sample)
    rows = [held[context.id] for context in order]
    sizes = np.array([len(row) for row in rows], float)
    ones = np.ones(len(rows))
    empty = np.array([sum(not s.text.strip() for s in row) for row in rows], float)
    length = np.array([sum(len(s.token_ids) for s in row) for row in rows], float)
    entropy = np.array([token_entropy([s.token_ids for s in row]) for row in rows])
    measures = {
        "output/empty_share": ClusterMean(empty, sizes, proportion=True),
        "output/mean_length": ClusterMean(length, sizes),
        "output/entropy": ClusterMean(entropy, ones),
    }
    for n in (2, 3):
        counts = np.array([distinct_and_total([s.token_ids for s in row], n) for row in rows])
        measures[f"output/distinct_{n}"] = ClusterMean(counts[:, 0], counts[:, 1])
    return measures


def token_entropy(texts: Sequence[Sequence[int]]) -> float:
    """Entropy in bits of the pooled token distribution; 0 without tokens."""
    counts = np.array(list(Counter(token for text in texts for token in text).values()), float)
    if not counts.size:
        return 0.0
    shares = counts / counts.sum()
    return float(-(shares * np.log2(shares)).sum())


def distinct_and_total(texts: Sequence[Sequence[int]], n: int) -> tuple[float, float]:
    """Number of distinct n-grams, number of n-grams."""
    grams = [tuple(text[i : i + n]) for text in texts for i in range(len(text) - n + 1)]
    return float(len(set(grams))), float(len(grams))
