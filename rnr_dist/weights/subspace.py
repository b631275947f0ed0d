"""How much of the same output subspace two adapters use (paper section 4.1, Table 1).

In: trained adapters of one model. Out: the similarity of each module's top singular subspaces,
with the level that chance gives and the most that is possible. Invariant: every figure comes with
the two that it is read by; the paper's own formula does not reach 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch

from rnr_dist.errors import InputError
from rnr_dist.types import Adapter, ModelRef
from rnr_dist.weights.composition import Factors, adapter_pair
from rnr_dist.weights.compression import thin_svd

TOP = 8  # the paper's k


@dataclass(frozen=True)
class ModuleSimilarity:
    """(1/k) ‖U₁ᵀU₂‖_F of one module, for the top-k left singular vectors in R^d, d = `width`.

    `chance` is the root mean square for two independent uniformly random k-subspaces, exactly
    1/√d, since E‖U₁ᵀU₂‖²_F = k²/d. Their mean lies below it by about 1/(4k²): .4 % at k = 8,
    but 20 % at k = 1. `maximum` is 1/√k, for equal subspaces.
    """

    value: float
    k: int
    width: int

    @property
    def chance(self) -> float:
        return 1 / math.sqrt(self.width)

    @property
    def maximum(self) -> float:
        return 1 / math.sqrt(self.k)


@dataclass(frozen=True)
class SubspaceSimilarity:
    """The similarity of two adapters: `mean` and population standard deviation over modules.

    `chance` and `maximum` are the means of the modules' own, which differ where widths or ranks
    do. Modules that one adapter lacks, or where either delta is zero, have no place in `modules`.
    """

    modules: Mapping[str, ModuleSimilarity]
    mean: float
    std: float
    chance: float
    maximum: float


def similarity(one: Adapter, other: Adapter, k: int = TOP) -> SubspaceSimilarity:
    """Similarity of the subspaces that the deltas BA of two adapters write into.

    k is cut to the smaller rank of a module's two deltas. Raises InputError for k below 1, and
    where the adapters share no module whose deltas have one shape and are not zero.
    """
    if k < 1:
        raise InputError(f"k: found {k}; expected 1 or more singular vectors")
    first, second = adapter_pair(one, other)
    modules = {}
    for module in sorted(first.keys() & second.keys()):
        ours, theirs = (_left_vectors(factors, module)[:, :k] for factors in (first, second))
        depth = min(ours.shape[1], theirs.shape[1])
        if depth:
            overlap = torch.linalg.matrix_norm(ours[:, :depth].T @ theirs[:, :depth])
            modules[module] = ModuleSimilarity(float(overlap) / depth, depth, ours.shape[0])
    if not modules:
        raise InputError(
            f"{other.path}: found no module where its delta and that of {one.path} both differ "
            "from zero; expected trained adapters"
        )
    values, chances, maxima = (
        np.array([getattr(found, name) for found in modules.values()])
        for name in ("value", "chance", "maximum")
    )
    return SubspaceSimilarity(
        modules,
        float(values.mean()),
        float(values.std()),
        float(chances.mean()),
        float(maxima.mean()),
    )


def similarity_rows(model: ModelRef, k: int = TOP) -> list[dict[str, Any]]:
    """Every two adapters of Eq. 1 by name (f0, r1, f1, ...), plain values for the summary.

    Pairs that cannot be compared, since they share no module, are left out.
    """
    named = [
        (f"{term.adapter.side[0]}{(place + 1) // 2}", term.adapter)
        for place, term in enumerate(model.terms)
    ]
    rows = []
    for (one, first), (other, second) in combinations(named, 2):
        try:
            found = similarity(first, second, k)
        except InputError:
            continue
        figures = {key: getattr(found, key) for key in ("mean", "std", "chance", "maximum")}
        rows.append({"one": one, "other": other, **figures, "modules": len(found.modules)})
    return rows


def _left_vectors(factors: Factors, module: str) -> torch.Tensor:
    """The left singular vectors of a delta, (out, numerical rank), the strongest first."""
    a, b = factors[module]
    u, s, _ = thin_svd(a, b)
    noise = s[0] * max(b.shape[0], a.shape[1]) * torch.finfo(s.dtype).eps
    return u[:, s > noise]
