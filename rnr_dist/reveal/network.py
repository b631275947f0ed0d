"""The bandit's network: one hidden ReLU layer, its gradients in factors, its training.

In: (n, d) float64 features. Out: outputs, gradients, fitted weights. Invariant: gradients are never
materialised; n x |theta| numbers would be gigabytes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

MEAN_DECAY, SQUARE_DECAY, EPSILON = 0.9, 0.999, 1e-8  # Adam's, as torch has them


@dataclass(frozen=True)
class BanditSettings:
    """What a bandit of either kind is made with.

    hidden: ReLU units. ridge: lambda. exploration: nu. initial: arms chosen before bounds are
    trusted, at `start`: random, or each the farthest from all before (k-centre). steps,
    learning_rate: of each training. widths: a key of `confidence.WIDTHS`. subset: arms that the
    reference's arg max looks at (None: all).
    """

    hidden: int = 100
    ridge: float = 0.1
    exploration: float = 1.0
    initial: int = 8
    start: Literal["random", "k_centre"] = "random"
    steps: int = 1000
    learning_rate: float = 1e-3
    widths: Literal["diagonal", "full"] = "diagonal"
    subset: int | None = 1000


@dataclass(frozen=True)
class Fitting:
    """How weights are fitted. gain: of the units. anchored: decay the distance from the start (Zhou
    et al. 2020, eq. 2) instead of the weights themselves (INSTINCT); decay to zero moves the
    outputs of arms that no score speaks of."""

    gain: float
    steps: int
    learning_rate: float
    decay: float
    anchored: bool = True


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


def fit(features: Tensor, targets: Tensor, start: Parameters, how: Fitting) -> Parameters:
    """Full-batch Adam on the mean squared error, from `start`. features: (n, d). targets: (n,)."""
    # Arms are columns and biases a column of w, so that a step is three products; one flat vector,
    # so that Adam is a dozen passes. As torch operations on four tensors this took four times as
    # long for the few dozen arms that a search has.
    n, d = features.shape
    inputs = np.concatenate([features.numpy(), np.ones((n, 1))], axis=1)
    columns = np.ascontiguousarray(inputs.T)
    origin = _flat(start)
    fixed = origin if how.anchored else np.zeros_like(origin)
    free = origin - fixed  # what Adam changes, and its decay acts on
    theta, slope, scratch = (np.empty_like(origin) for _ in range(3))
    mean, square = np.zeros_like(origin), np.zeros_like(origin)
    hidden = len(start.b1)
    w, w2 = _parts(theta, hidden, d)
    slope_w, slope_w2 = _parts(slope, hidden, d)
    wanted = targets.numpy()
    gain = how.gain
    for step in range(1, how.steps + 1):
        np.add(fixed, free, out=theta)
        before = w @ columns
        active = np.maximum(before, 0)
        errors = (gain * (w2 @ active) + theta[-1] - wanted) * (2 / n)
        np.dot((before > 0) * errors, inputs, out=slope_w)
        slope_w *= (gain * w2)[:, None]
        slope_w2[:] = gain * (active @ errors)
        slope[-1] = errors.sum()
        slope += np.multiply(free, how.decay, out=scratch)
        mean *= MEAN_DECAY
        mean += np.multiply(slope, 1 - MEAN_DECAY, out=scratch)
        square *= SQUARE_DECAY
        square += np.multiply(np.square(slope, out=scratch), 1 - SQUARE_DECAY, out=scratch)
        np.sqrt(square, out=scratch)
        scratch *= (1 - SQUARE_DECAY**step) ** -0.5
        scratch += EPSILON
        np.divide(mean, scratch, out=scratch)
        scratch *= how.learning_rate / (1 - MEAN_DECAY**step)
        free -= scratch
    return _unflat(fixed + free, hidden, d)


def fit_in_span(features: Tensor, targets: Tensor, start: Parameters, how: Fitting) -> Parameters:
    """`fit`, anchored, with w1 - w1(start) within the span of the n features.

    No score says anything of other directions, and decay would take a shift along them back. The
    features' own axes (their right singular vectors) are the coordinates, at most n instead of d:
    40 arms of 4,096 features train a hundred times faster.
    """
    left, sizes, axes = torch.linalg.svd(features, full_matrices=False)
    inner = start._replace(w1=start.w1 @ axes.T)
    fitted = fit(left * sizes, targets, inner, replace(how, anchored=True))
    return fitted._replace(w1=start.w1 + (fitted.w1 - inner.w1) @ axes)


def _flat(theta: Parameters) -> np.ndarray:
    """One vector: each unit's weights and bias, then w2, then b2."""
    w = torch.cat([theta.w1, theta.b1[:, None]], dim=1)
    return torch.cat([w.ravel(), theta.w2, theta.b2[None]]).numpy()


def _parts(flat: np.ndarray, hidden: int, d: int) -> tuple[np.ndarray, np.ndarray]:
    """Views of w1 with b1 as its last column, (hidden, d + 1), and of w2."""
    end = hidden * (d + 1)
    return flat[:end].reshape(hidden, d + 1), flat[end:-1]


def _unflat(flat: np.ndarray, hidden: int, d: int) -> Parameters:
    w, w2 = (torch.from_numpy(part) for part in _parts(flat, hidden, d))
    return Parameters(w[:, :-1].contiguous(), w[:, -1].contiguous(), w2, torch.tensor(flat[-1]))
