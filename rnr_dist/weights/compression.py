"""SVD of low-rank deltas from their factors, and their best approximation of a smaller rank.

In: (A, B) of each module, in any rank. Out: singular vectors, or factors of a smaller rank and the
error that this makes. Invariant: B A is never formed; all is computed in float64 from a core as
small as the rank.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from rnr_dist.errors import InputError
from rnr_dist.weights.composition import Factors


@dataclass(frozen=True)
class Truncation:
    """What a smaller rank costs: ‖Δ − Δ_r‖ / ‖Δ‖ in the Frobenius norm, 0 where Δ is zero.

    `error` is over all modules together, `modules` of each.
    """

    rank: int
    error: float
    modules: Mapping[str, float]

    @property
    def worst(self) -> str:
        """The module with the largest error."""
        return max(self.modules, key=lambda module: self.modules[module])


def thin_svd(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(U, s, Vᵀ), float64, with B A = U diag(s) Vᵀ: (out, k), (k,), (k, in), k ≤ r.

    A: (r, in), B: (out, r). With B = Q_b R_b and Aᵀ = Q_a R_a by QR, the SVD of the r x r core
    R_b R_aᵀ is that of B A.
    """
    left, core_b = torch.linalg.qr(b.double())
    right, core_a = torch.linalg.qr(a.double().T)
    u, s, vt = torch.linalg.svd(core_b @ core_a.T, full_matrices=False)
    return left @ u, s, vt @ right.T


def compress(factors: Factors, rank: int) -> tuple[Factors, Truncation]:
    """The factors cut to at most `rank`, by SVD of each module's delta, and what this costs.

    No factors of that rank come closer to a module's delta (Eckart and Young). Modules of that
    rank or less stay as they are, at an error of 0. The error is of the cut itself, from the
    singular values left out; rounding to the factors' dtype comes on top. Both factors carry the
    square root of a singular value, so that neither outgrows what a half-precision engine holds.
    Raises InputError for a rank below 1.
    """
    if rank < 1:
        raise InputError(f"rank: found {rank}; expected 1 or more")
    cut: Factors = {}
    errors: dict[str, float] = {}
    lost = total = 0.0
    for module, (a, b) in factors.items():
        if a.shape[0] <= rank:
            cut[module], left_out = (a, b), 0.0
            # The trace of (B A)ᵀ B A, cyclically.
            square = float(((b.double().T @ b.double()) * (a.double() @ a.double().T)).sum())
        else:
            u, s, vt = thin_svd(a, b)
            root = s[:rank].sqrt()
            cut[module] = (root[:, None] * vt[:rank]).to(a.dtype), (u[:, :rank] * root).to(b.dtype)
            left_out, square = float((s[rank:] ** 2).sum()), float((s**2).sum())
        errors[module] = _relative(left_out, square)
        lost, total = lost + left_out, total + square
    return cut, Truncation(rank, _relative(lost, total), errors)


def _relative(lost: float, total: float) -> float:
    return math.sqrt(lost / total) if total > 0 else 0.0
