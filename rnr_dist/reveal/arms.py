"""The arm table: soft prompts from scrambled Sobol points (Algorithm 1's set P).

In: sizes and a seed. Out: coordinates of all arms, the soft prompt of one. Invariant: equal
arguments give bit-equal arms in any process, so workers make them on the spot and only arm
numbers travel; no more than one soft prompt is in memory.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.stats import qmc


class ArmTable:
    """`count` soft prompts: points of a small cube under one random bias-free linear map.

    count: number of arms. dimension: of the Sobol cube. soft_tokens, hidden: shape of a soft
    prompt. scale_std: None keeps the reference's scale (entries of std about 1); a number, the std
    of the model's own token embeddings, centres the arms at the origin and gives entries that std.
    coordinates: (count, dimension) float64 in [0, 1].
    """

    def __init__(
        self,
        count: int,
        dimension: int,
        soft_tokens: int,
        hidden: int,
        seed: int,
        scale_std: float | None,
    ) -> None:
        points, weights = (np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(2))
        # Sobol points come in powers of two: other counts take the first ones.
        sobol = qmc.Sobol(dimension, scramble=True, seed=points)
        self.coordinates = sobol.random_base2(math.ceil(math.log2(count)))[:count]
        self._projection = weights.uniform(-1, 1, size=(dimension, soft_tokens * hidden))
        self._shape = (soft_tokens, hidden)
        self._offset, self._scale = np.zeros(dimension), 1.0
        if scale_std is not None:
            # The cube's centre contributes 3/4 of an arm's mean square, the same vector to every
            # arm. Token embeddings lie around the origin: shrunk to their scale, uncentred arms
            # would all point the same way and decode alike.
            self._offset = self.coordinates.mean(axis=0)
            # Variance of coordinates 1/12, of weights 1/3. The expected std, not the measured one:
            # measuring takes a matrix product, whose last bits differ between processors.
            self._scale = scale_std / math.sqrt(dimension / 12 / 3)

    def __len__(self) -> int:
        return len(self.coordinates)

    def soft_prompt(self, arm: int) -> np.ndarray:
        """(soft_tokens, hidden) float32 input embeddings of one arm."""
        point = (self.coordinates[arm] - self._offset) * self._scale
        # Row by row instead of a matrix product, for the same bits on every processor.
        entries = (point[:, None] * self._projection).sum(axis=0)
        return entries.reshape(self._shape).astype(np.float32)
