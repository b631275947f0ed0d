"""The bandit's view of the arm table: features as they came, standardised block by block.

Invariant: beside the table no more than a block of float64 features is in memory, whatever the
number of arms (10,000 arms of 4,096 features are 160 MB in float32).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

BLOCK_BYTES = 2**21


class FeatureTable:
    """(arms, d) features; rows come out as float64. block_rows: arms that are worked on at a time.

    Raises ValueError for features that are not finite.
    """

    def __init__(self, features: np.ndarray) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Ray's shared memory is read-only; nothing writes here
            self._table = torch.from_numpy(np.asarray(features))
        self.block_rows = max(1, BLOCK_BYTES // (8 * self.dimension))
        for arms, block in self.blocks():
            finite = block.sum(1).isfinite()
            if not finite.all():
                row = arms.start + int((~finite).nonzero()[0])
                raise ValueError(f"arm {row}: features are not all finite")

    def __len__(self) -> int:
        return len(self._table)

    @property
    def dimension(self) -> int:
        return self._table.shape[1]

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """Consecutive arms and their features, a few megabytes at a time.

        Each in the memory of the one before, to be overwritten at will: new megabytes for every
        block leave holes behind that the next one does not fit into, the whole table's worth.
        """
        held = torch.empty(min(self.block_rows, len(self)), self.dimension, dtype=torch.float64)
        for first in range(0, len(self), self.block_rows):
            arms = slice(first, min(first + self.block_rows, len(self)))
            yield arms, held[: arms.stop - first].copy_(self._table[arms])

    def rows(self, arms: list[int]) -> Tensor:
        """(len(arms), d) features."""
        return self._table[arms].to(torch.float64)

    def moments(self) -> tuple[Tensor, Tensor]:
        """(d,) means and (d,) standard deviations over all arms."""
        mean = torch.zeros(self.dimension, dtype=torch.float64)
        for _, block in self.blocks():
            mean += block.sum(0) / len(self)
        variance = torch.zeros_like(mean)
        for _, block in self.blocks():
            variance += sums_of_squares(block.sub_(mean), 0) / len(self)
        return mean, variance.sqrt()


class Standardised:
    """The table with its columns at mean 0 and std 1, times 1/sqrt(d).

    Columns that are constant over all arms become 0.
    """

    def __init__(self, table: FeatureTable) -> None:
        self._table = table
        self._mean, spread = table.moments()
        constant = spread <= 1e-12 * self._mean.abs().clamp_min(1)
        root = table.dimension**0.5
        self._scale = torch.where(constant, 0.0, 1 / (torch.where(constant, 1.0, spread) * root))
        self.squared_norms = torch.cat(
            [sums_of_squares(self._of(rows), 1) for _, rows in table.blocks()]
        )

    def __len__(self) -> int:
        return len(self._table)

    @property
    def dimension(self) -> int:
        return self._table.dimension

    @property
    def block_rows(self) -> int:
        return self._table.block_rows

    def rows(self, arms: list[int]) -> Tensor:
        return self._of(self._table.rows(arms))

    def products(self, weights: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Blocks of the table times (hidden, d) weights, (n, hidden) each.

        Standardisation is folded into the weights: one pass over the features instead of three.
        """
        folded = (weights * self._scale).T.contiguous()
        shift = self._mean @ folded
        for arms, block in self._table.blocks():
            yield arms, block @ folded - shift

    def squared_distances(self, point: Tensor) -> Tensor:
        """(arms,) squared distances to one (d,) standardised point."""
        products = torch.cat([product[:, 0] for _, product in self.products(point[None])])
        return (self.squared_norms - 2 * products + point.square().sum()).clamp_min(0)

    def _of(self, rows: Tensor) -> Tensor:
        """The rows standardised, in place."""
        return rows.sub_(self._mean).mul_(self._scale)


def sums_of_squares(values: Tensor, dim: int) -> Tensor:
    """Sums of squares along `dim`, without a copy of the values."""
    return torch.linalg.vector_norm(values, dim=dim).square()
