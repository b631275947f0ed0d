"""The bandit's network written a second time, plainly, for comparison."""

import numpy as np
import torch

from rnr_dist.measures.memorisation import overlap
from rnr_dist.reveal.network import Parameters


def features(arms: int = 30, d: int = 4, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(arms, d))


def network(d: int, hidden: int, seed: int) -> Parameters:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(hidden, d), (hidden,), (hidden,), ()]
    return Parameters(
        *(torch.randn(shape, dtype=torch.float64, generator=generator) for shape in shapes)
    )


def output(x: torch.Tensor, theta: Parameters, gain: float) -> torch.Tensor:
    """The network, written independently of the module."""
    return theta.w2 @ torch.relu(theta.w1 @ x + theta.b1) * gain + theta.b2


def autograd_gradient(x: torch.Tensor, theta: Parameters, gain: float) -> torch.Tensor:
    leaves = Parameters(*(weight.clone().requires_grad_() for weight in theta))
    parts = torch.autograd.grad(output(x, leaves, gain), leaves)
    return torch.cat([part.flatten() for part in parts])


def flat(parameters: Parameters) -> torch.Tensor:
    return torch.cat([part.flatten() for part in parameters])


def naive_overlaps(reader, ids, counting):
    """(prefixes,) OVERLAP_n by generating from every prefix: what `recall` must equal."""
    prefixes = range(1, len(ids) - counting.n + 1)
    answers = reader.greedy([(ids, length, len(ids) - length) for length in prefixes])
    eos = counting.eos
    cut = [a[: a.index(eos) + 1] if eos in a else a for a in answers]
    pairs = zip(cut, prefixes, strict=True)
    return np.array(
        [overlap(answer, ids[i:], counting.n, counting.denominator) for answer, i in pairs]
    )
