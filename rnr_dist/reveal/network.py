"""The bandit's network: one hidden ReLU layer, its gradients in factors, its training.

In: (n, d) float64 features. Out: outputs, gradients, fitted weights. Invariant: gradients are never
materialised; n x |theta| numbers would be gigabytes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor


class Parameters(NamedTuple):
    """One number for each parameter of f(x) = gain w2 . relu(w1 x + b1) + b2, float64.

    w1: (hidden, d). b1, w2: (hidden,). b2: scalar.
    """

    w1: Tensor
    b1: Tensor
    w2: Tensor
    b2: Tensor


class Gradients(NamedTuple):
    """Gradients of f at n arms in factors.

    df/dw1 = slopes x features (outer), df/db1 = slopes, df/dw2 = activations, df/db2 = 1.
    features: (n, d). slopes: (n, hidden), gain w2 where a unit is active, else 0.
    activations: (n, hidden), gain times the ReLU's output.
    """

    features: Tensor
    slopes: Tensor
    activations: Tensor


def draw_parameters(d: int, hidden: int, seed: int) -> Parameters:
    """All weights and biases N(0, 1), as in the reference (INSTINCT)."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(hidden, d), (hidden,), (hidden,), ()]
    return Parameters(*(torch.randn(s, dtype=torch.float64, generator=generator) for s in shapes))


def units(before: Tensor, theta: Parameters, gain: float) -> tuple[Tensor, Tensor]:
    """(slopes, activations) of (n, hidden) pre-activations."""
    return (before > 0) * (theta.w2 * gain), before.relu() * gain


def gradients(features: Tensor, theta: Parameters, gain: float) -> Gradients:
    """Gradients of the network's output at (n, d) features."""
    return Gradients(features, *units(features @ theta.w1.T + theta.b1, theta, gain))


def predict(activations: Tensor, theta: Parameters) -> Tensor:
    """(n,) outputs of the network that made these activations."""
    return activations @ theta.w2 + theta.b2


def weighted_sum(at: Gradients, weights: Tensor) -> Parameters:
    """Sum of the gradients at n arms, each times one of (n,) weights."""
    slopes = at.slopes * weights[:, None]
    return Parameters(
        slopes.T @ at.features, slopes.sum(0), weights @ at.activations, weights.sum()
    )


def fit(
    features: Tensor,
    targets: Tensor,
    start: Parameters,
    *,
    gain: float,
    steps: int,
    learning_rate: float,
    decay: float,
    anchored: bool,
) -> Parameters:
    """Full-batch Adam on the mean squared error, from `start`.

    features: (n, d). targets: (n,). anchored: decay the distance from `start` (Zhou et al. 2020,
    eq. 2) instead of the weights themselves (INSTINCT). Decay to zero moves the outputs of arms
    that no score speaks of.
    """
    # theta = fixed + free, and Adam's decay acts on `free`.
    zeros = Parameters(*map(torch.zeros_like, start))
    fixed, free = (start, zeros) if anchored else (zeros, Parameters(*map(torch.clone, start)))
    optimiser = torch.optim.Adam(list(free), lr=learning_rate, weight_decay=decay, fused=True)
    for _ in range(steps):
        theta = _sum(fixed, free)
        at = gradients(features, theta, gain)
        errors = predict(at.activations, theta) - targets
        slopes = weighted_sum(at, 2 / len(targets) * errors)
        for parameter, slope in zip(free, slopes, strict=True):
            parameter.grad = slope
        optimiser.step()
    return _sum(fixed, free)


def fit_in_span(
    features: Tensor, targets: Tensor, start: Parameters, **settings: Any
) -> Parameters:
    """`fit`, anchored, with w1 - w1(start) within the span of the n features.

    No score says anything of other directions, and decay would take a shift along them back. The
    features' own axes (their right singular vectors) are the coordinates, at most n instead of d:
    40 arms of 4,096 features train a hundred times faster.
    """
    left, sizes, axes = torch.linalg.svd(features, full_matrices=False)
    inner = start._replace(w1=start.w1 @ axes.T)
    fitted = fit(left * sizes, targets, inner, anchored=True, **settings)
    return fitted._replace(w1=start.w1 + (fitted.w1 - inner.w1) @ axes)


def _sum(left: Parameters, right: Parameters) -> Parameters:
    return Parameters(*(a + b for a, b in zip(left, right, strict=True)))
