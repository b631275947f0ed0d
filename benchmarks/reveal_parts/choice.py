"""Choosing among 10,000 arms: closed form and lazy, against per-sample autograd in float64.

Prints one JSON object for the hidden size given as argument. Memory: growth of the resident set
from before the bandit exists (the table is there already), against the float64 table that
per-sample code works on.
"""

from __future__ import annotations

import json
import resource
import sys
import time

import numpy as np
import torch

from rnr_dist.reveal.network import Parameters
from rnr_dist.reveal.neural_ucb import NeuralUCB

ARMS, PICKS, HIDDEN = 10_000, 40, 100
COMPARED = 1000  # arms whose gradients autograd makes; its time is scaled to all, being a loop


def resident() -> int:
    """Peak resident bytes of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def by_autograd(x: torch.Tensor, theta: Parameters, start: Parameters, u: Parameters) -> np.ndarray:
    """(n,) bounds, one gradient an arm."""
    leaves = Parameters(*(weight.clone().requires_grad_() for weight in theta))
    bounds = []
    for row in x:
        units = torch.relu(leaves.w1 @ row + leaves.b1) * HIDDEN**-0.5
        output = leaves.w2 @ units + leaves.b2
        slopes = torch.autograd.grad(output, leaves)
        width = sum((0.1 * g.square() / part).sum() for g, part in zip(slopes, u, strict=True))
        with torch.no_grad():
            at_start = start.w2 @ torch.relu(start.w1 @ row + start.b1) * HIDDEN**-0.5 + start.b2
        bounds.append(float(output.detach() - at_start + width.sqrt()))
    return np.array(bounds)


def main(d: int) -> dict[str, float]:
    random = np.random.default_rng(0)
    features = random.standard_normal((ARMS, d), dtype=np.float32)
    # Loads what libraries load once: thread pools, optimiser, LAPACK.
    warm = NeuralUCB(features[:2000], seed=0, hidden=HIDDEN, steps=2, initial=0)
    warm.dispatch(0)
    warm.observe(0, 0.5)
    warm.train()
    warm.select()
    del warm
    before = resident()
    bandit = NeuralUCB(features, seed=0, hidden=HIDDEN, initial=0, steps=50)
    for arm in range(PICKS):
        bandit.dispatch(arm)
        bandit.observe(arm, float(random.uniform()))
    theta, _ = bandit.training_job()()
    firsts, laters = [], []
    for _ in range(5):
        began = time.perf_counter()
        bandit.adopt(theta, bandit._preactivations(theta))
        chosen = bandit.select()
        firsts.append(time.perf_counter() - began)
        for _ in range(4):
            bandit.dispatch(chosen)
            began = time.perf_counter()
            chosen = bandit.select()
            laters.append(time.perf_counter() - began)
    grown = resident() - before
    rows = list(range(PICKS + 100, PICKS + 100 + COMPARED))
    x = bandit._features.rows(rows)
    began = time.perf_counter()
    expected = by_autograd(x, bandit.theta, bandit.initial_weights, bandit.widths.precision)
    plain = (time.perf_counter() - began) * ARMS / COMPARED
    error = float(np.abs(expected - bandit.bounds(rows).numpy()).max())
    table = ARMS * d * 8
    return {
        "d": d,
        "autograd_seconds": plain,
        "first_choice_speedup": plain / float(np.median(firsts)),
        "lazy_choice_speedup": plain / float(np.median(laters)),
        "largest_difference": error,
        "memory_to_float64_table": (features.nbytes + grown) / table,
    }


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]))))
