"""Choosing among 10,000 arms: closed form and lazy, against per-sample autograd in float64.

Prints one JSON object for the hidden size given as argument. Memory: the table as it came and the
growth of anonymous memory from before the bandit exists, against the float64 table that per-sample
code works on.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path

import numpy as np
import torch

from rnr_dist.reveal.network import BanditSettings, Parameters
from rnr_dist.reveal.neural_ucb import NeuralUCB

STATUS = Path("/proc/self/status")
ARMS, PICKS, HIDDEN = 10_000, 40, 100
COMPARED = 1000  # arms whose gradients autograd makes; its time is scaled to all, being a loop


class Growth:
    """Most anonymous memory within the block beyond that at its start, read every millisecond.

    Without pages of libraries, which come and go with the system's needs.
    """

    def __enter__(self) -> Growth:
        self.before = self.most = anonymous()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    @property
    def bytes(self) -> int:
        return self.most - self.before

    def _watch(self) -> None:
        while not self._ended.wait(0.001):
            self.most = max(self.most, anonymous())


def anonymous() -> int:
    """Resident bytes of this process that no file holds."""
    [line] = [
        line
        for line in STATUS.read_text(encoding="utf-8").splitlines()
        if line.startswith("RssAnon:")
    ]
    return int(line.split()[1]) * 1024


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
    warm = NeuralUCB(
        features[:2000], seed=0, settings=BanditSettings(hidden=HIDDEN, steps=2, initial=0)
    )
    warm.dispatch(0)
    warm.observe(0, 0.5)
    warm.train()
    warm.select()
    del warm
    firsts, laters = [], []
    with Growth() as growth:
        bandit = NeuralUCB(
            features, seed=0, settings=BanditSettings(hidden=HIDDEN, initial=0, steps=50)
        )
        for arm in range(PICKS):
            bandit.dispatch(arm)
            bandit.observe(arm, float(random.uniform()))
        theta, _ = bandit.training_job()()
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
        "memory_to_float64_table": (features.nbytes + growth.bytes) / table,
    }


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]))))
