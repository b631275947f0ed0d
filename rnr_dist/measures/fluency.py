"""Fluency guards: an output that is empty or loops has not forgotten.

In: samples. Out: per-context measures. Invariant: computed on token ids, all models alike.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from rnr_dist.measures.measure import Measure, Role
from rnr_dist.stats import ClusterMean
from rnr_dist.types import Context, Sample

OUTPUT = "The continuations themselves"
EMPTY = Measure(
    "output/empty_share",
    "empty",
    "share",
    "lower",
    Role.GUARD,
    adds="share",
    style=".1%",
    table=OUTPUT,
)
LENGTH = Measure(
    "output/mean_length", "tokens", "tokens", "higher", Role.GUARD, style=".1f", table=OUTPUT
)
ENTROPY = Measure("output/entropy", "entropy", "bits", "higher", Role.GUARD, table=OUTPUT)
DISTINCT = {
    n: Measure(
        f"output/distinct_{n}",
        f"distinct {n}-grams",
        "share",
        "higher",
        Role.GUARD,
        table=OUTPUT,
    )
    for n in (2, 3)
}
FLUENCY = (EMPTY, LENGTH, ENTROPY, *DISTINCT.values())


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
    sizes = [len(row) for row in rows]
    ids = [[sample.token_ids for sample in row] for row in rows]
    measures = {
        EMPTY.name: EMPTY.of((sum(not s.text.strip() for s in row) for row in rows), sizes),
        LENGTH.name: LENGTH.of((sum(map(len, texts)) for texts in ids), sizes),
        ENTROPY.name: ENTROPY.mean(token_entropy(texts) for texts in ids),
    }
    for n, measure in DISTINCT.items():
        distinct, total = zip(*(distinct_and_total(texts, n) for texts in ids), strict=True)
        measures[measure.name] = measure.of(distinct, total)
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
