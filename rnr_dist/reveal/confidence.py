"""Confidence widths of the bandit's network in closed form (never by per-sample gradients).

In: gradients in factors, of candidate arms and of the picked ones. Out: sigma^2. Invariant: as
picks are added, an arm's width only falls, so a width computed earlier is an upper bound.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from rnr_dist.reveal.network import Gradients, Parameters


class Widths(Protocol):
    """sigma^2 = lambda nu g^T Z^-1 g over the picks told so far, for a Z of some shape."""

    def reset(self, picked: Gradients) -> None:
        """Z = lambda I + the gradients of these t >= 0 picks, each as of its pick time."""

    def add(self, pick: Gradients) -> None:
        """One more pick, a `Gradients` of n = 1."""

    def of(self, at: Gradients) -> Tensor:
        """(n,) widths."""

    def ceiling(self, squared_norms: Tensor, slopes: Tensor, activations: Tensor) -> Tensor:
        """(n,) upper bounds of the widths for O(n hidden) work, without the features.

        squared_norms: (n,) squared lengths of the features.
        """


class DiagonalWidths:
    """Z's diagonal alone: U = lambda + the sum of squared gradients (INSTINCT)."""

    def __init__(self, ridge: float, exploration: float) -> None:
        self._ridge, self._exploration = ridge, exploration
        self.precision: Parameters
        self._inverse: Parameters | None = None

    def reset(self, picked: Gradients) -> None:
        features, slopes, activations = (factor.square() for factor in picked)
        self.precision = Parameters(
            self._ridge + slopes.T @ features,
            self._ridge + slopes.sum(0),
            self._ridge + activations.sum(0),
            torch.tensor(self._ridge + len(features), dtype=torch.float64),
        )
        self._inverse = None

    def add(self, pick: Gradients) -> None:
        features, slopes, activations = (factor[0].square() for factor in pick)
        u = self.precision
        u.w1.addr_(slopes, features)
        u.b1.add_(slopes)
        u.w2.add_(activations)
        u.b2.add_(1)
        self._inverse = None

    def of(self, at: Gradients) -> Tensor:
        if self._inverse is None:
            self._inverse = Parameters(*(part.reciprocal() for part in self.precision))
        inverse = self._inverse
        features, slopes, activations = (factor.square() for factor in at)
        total = (
            ((slopes @ inverse.w1) * features).sum(1)
            + slopes @ inverse.b1
            + activations @ inverse.w2
            + inverse.b2
        )
        return self._ridge * self._exploration * total

    def ceiling(self, squared_norms: Tensor, slopes: Tensor, activations: Tensor) -> Tensor:
        u = self.precision
        slopes, activations = slopes.square(), activations.square()
        # The smallest entry of a unit's row of U stands for the whole row. U's w1 part is hardly
        # above lambda (inputs have length 1 over d entries), so little is lost.
        most = (slopes @ u.w1.amin(1).reciprocal()) * squared_norms
        rest = slopes @ u.b1.reciprocal() + activations @ u.w2.reciprocal() + u.b2.reciprocal()
        return self._ridge * self._exploration * (most + rest)


class FullWidths:
    """The whole Z = lambda I + sum g g^T (Zhou et al. 2020).

    By the dual form g^T Z^-1 g = (k(x,x) - k_t^T (K + lambda I)^-1 k_t) / lambda, so that the cost
    follows the number of picks and not the number of parameters.
    """

    def __init__(self, ridge: float, exploration: float) -> None:
        self._ridge, self._exploration = ridge, exploration
        self._picked: Gradients
        self._factor: Tensor | None = None

    def reset(self, picked: Gradients) -> None:
        self._picked, self._factor = picked, None

    def add(self, pick: Gradients) -> None:
        together = zip(self._picked, pick, strict=True)
        self.reset(Gradients(*(torch.cat(pair) for pair in together)))

    def of(self, at: Gradients) -> Tensor:
        if self._factor is None:
            kernel = _kernel(self._picked, self._picked)
            kernel.diagonal().add_(self._ridge)
            self._factor = torch.linalg.cholesky(kernel)
        cross = _kernel(self._picked, at)
        half = torch.linalg.solve_triangular(self._factor, cross, upper=False)
        own = self._own(at.features.square().sum(1), at.slopes, at.activations)
        return self._exploration * (own - half.square().sum(0)).clamp_min(0)

    def ceiling(self, squared_norms: Tensor, slopes: Tensor, activations: Tensor) -> Tensor:
        return self._exploration * self._own(squared_norms, slopes, activations)

    @staticmethod
    def _own(squared_norms: Tensor, slopes: Tensor, activations: Tensor) -> Tensor:
        return slopes.square().sum(1) * (squared_norms + 1) + activations.square().sum(1) + 1


def _kernel(left: Gradients, right: Gradients) -> Tensor:
    """Inner products of gradients: k(x, s) = (D_x . D_s)(x . s + 1) + H_x . H_s + 1."""
    return (
        (left.slopes @ right.slopes.T) * (left.features @ right.features.T + 1)
        + left.activations @ right.activations.T
        + 1
    )


WIDTHS: dict[str, Callable[[float, float], Widths]] = {
    "diagonal": DiagonalWidths,
    "full": FullWidths,
}
