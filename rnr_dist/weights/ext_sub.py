"""Ext-Sub (Hu et al. 2024): subtract what an anti-expert does not share with its expert.

In: an expert and an anti-expert adapter of the same model. Out: one adapter of their ranks' sum.
Invariant: the dense deltas are never formed, and the result is exact: its rows combine the two
rows of the same index, so it is both adapters stacked, with the rows of each B scaled.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch

from rnr_dist.errors import InputError
from rnr_dist.types import Adapter
from rnr_dist.weights.composition import Factors, adapter_base, adapter_pair, padded, save_adapter

# A row whose terms cancel to less than this share of their size is zero but for float64 rounding.
CANCELLED = 64 * torch.finfo(torch.float64).eps


def ext_sub(expert: Adapter, anti_expert: Adapter, alpha: float, folder: Path) -> Adapter:
    """Write Ext-Sub's delta (`combine`) as a PEFT LoRA of scaling 1, to be added as it stands.

    The base with the term (+1, result) is Ext-Sub's model, hence the side `forget`. The rank is
    the largest sum of a module's two ranks, others are padded with zeros. Raises InputError where
    the adapters were trained on different models, share no module or differ in a module's shape,
    and where alpha is no finite number of at least 0.
    """
    if not (math.isfinite(alpha) and alpha >= 0):
        raise InputError(f"{folder}: found alpha {alpha:g}; expected a finite number, 0 or more")
    if expert.trained_on != anti_expert.trained_on:
        raise InputError(
            f"{anti_expert.path}: was trained on the model {anti_expert.trained_on}; expected "
            f"{expert.trained_on}, as {expert.path}"
        )
    factors = combine(*adapter_pair(expert, anti_expert), alpha)
    rank = max(a.shape[0] for a, _ in factors.values())
    return save_adapter(
        folder,
        {module: padded(a, b, rank) for module, (a, b) in factors.items()},
        alpha=rank,
        base=adapter_base(expert.path),
        trained_on=expert.trained_on,
        side="forget",
    )


def combine(expert: Factors, anti_expert: Factors, alpha: float) -> Factors:
    """{module: (A, B)}, float64, of Ext-Sub's delta, from the deltas of both as factors.

    Row by row of the deltas θ⁺ (expert) and θ⁻ (anti-expert), Ext-Sub is
        u = normalise(θ⁺/‖θ⁺‖ + θ⁻/‖θ⁻‖),    θ⁺ − α θ⁻ + α (θ⁻·u) u.
    u halves the angle between the rows, so θ⁻·u is ‖θ⁻‖ times half the length of the sum that u
    is normalised from: that length cancels, and the row is
        (1 + α‖θ⁻‖ / 2‖θ⁺‖) θ⁺ − (α / 2) θ⁻,
    without a quotient of small numbers where the rows are nearly opposite. For opposite rows,
    whose u would be 0/0, both forms tend to θ⁺ − αθ⁻, as with u = 0. A zero row has no direction:
    where θ⁻ is zero θ⁺ stays; where θ⁺ is zero u is θ⁻'s direction, all of θ⁻ is shared, and the
    row is zero. A module that one adapter lacks is zero rows to it.
    """
    combined = {}
    for module, pair in expert.items():
        a, b = orthonormal(*pair)
        if module in anti_expert:
            anti_a, anti_b = orthonormal(*anti_expert[module])
            lengths, anti_lengths = (ups.norm(dim=1, keepdim=True) for ups in (b, anti_b))
            there = lengths > 0
            direction = b / torch.where(there, lengths, 1.0)
            shared = b + alpha / 2 * anti_lengths * direction
            a, b = torch.cat([a, anti_a]), torch.cat([shared, -alpha / 2 * (there * anti_b)], dim=1)
        combined[module] = a, b
    return combined


def orthonormal(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(A', B'), float64, with B'A' = BA and orthonormal rows of A': rows of B' and BA are as long.

    A: (r, in), B: (out, r); A': (min(r, in), in). By QR of Aᵀ, since ‖B_i A‖² = B_i (A Aᵀ) B_iᵀ
    loses half the digits where the terms of a row nearly cancel. A row that cancels but for
    rounding becomes zero: it would pass noise on as a direction, at full length.
    """
    a, b = a.double(), b.double()
    q, r = torch.linalg.qr(a.T)
    ups = b @ r.T
    rounding = CANCELLED * (b.abs() @ a.norm(dim=1))
    ups[ups.norm(dim=1) <= rounding] = 0
    return q.T, ups
