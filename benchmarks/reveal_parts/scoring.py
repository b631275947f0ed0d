"""What scoring a pull costs as the forget set grows, and that it equals the vendi-score package."""

from __future__ import annotations

import json
import time

import numpy as np
from vendi_score import vendi as reference

from rnr_dist.reveal import vendi
from rnr_dist.reveal.scoring import score_batch
from rnr_dist.reveal.vendi import SecondMoment

D, BATCH, ROUNDS = 1024, 16, 15
SMALL, LARGE = 1_000, 90_000


def rows(n: int, seed: int) -> np.ndarray:
    found = np.random.default_rng(seed).standard_normal((n, D), dtype=np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def main() -> dict[str, float]:
    small = rows(SMALL, 0)
    sets = {SMALL: SecondMoment(D).add(small), LARGE: SecondMoment(D)}
    for part in range(9):
        sets[LARGE].add(rows(LARGE // 9, part))
    batches = [rows(BATCH, 100 + seed) for seed in range(ROUNDS)]
    times: dict[int, list[float]] = {SMALL: [], LARGE: []}
    for batch in batches:  # alternating, so that noise meets both
        for size, forget_set in sets.items():
            began = time.perf_counter()
            score_batch(batch, 0.5, forget_set, 0.5, "weighted", 0.5)
            score_batch(batch, 0.5, forget_set, 0.5, "union", 0.5)
            times[size].append(time.perf_counter() - began)
    package = reference.score_X(np.vstack([batches[0], small]).astype(np.float64))
    medians = {size: float(np.median(found[1:])) for size, found in times.items()}
    return {
        "vendi_growth": medians[LARGE] / medians[SMALL],
        "milliseconds_a_score": 500 * medians[LARGE],
        "vendi_error": abs(vendi.union_raw(batches[0], sets[SMALL]) - package),
    }


if __name__ == "__main__":
    print(json.dumps(main()))
