"""Which sequences are forgotten, when unlearning ends, and which epoch is the best (section 4.4).

In: scores of continuations by sequence, epoch by epoch. Out: the sequences of the next epoch, and
whether there is one. Pure. Invariant: every rank that is given the same scores decides the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np


@dataclass(frozen=True)
class Limits:
    """What counts as forgotten: one sequence's (a, b of Eq. 5), and the average's."""

    bertscore: float
    bleu: float
    extraction: float
    memorisation: float


@dataclass(frozen=True)
class EpochReading:
    """(sequences,) figures after an epoch (0: before the first)."""

    epoch: int
    bertscore: tuple[float, ...]
    bleu: tuple[float, ...]
    extraction: tuple[float, ...]
    memorisation: tuple[float, ...]

    @property
    def mean_extraction(self) -> float:
        return float(np.mean(self.extraction))

    @property
    def mean_memorisation(self) -> float:
        return float(np.mean(self.memorisation))


def forgotten(
    reading: EpochReading,
    limits: Limits,
    combine: Literal["and", "or"],
    before: Sequence[bool] = (),
    by_memorisation: bool = False,
) -> list[bool]:
    """Eq. 5 for each sequence. before: what stays forgotten (sticky); empty for none.

    by_memorisation: its own MA must be at or below the average's limit too, so that where all have
    left the average is.
    """
    low = np.array(reading.bertscore) < limits.bertscore
    rare = np.array(reading.bleu) < limits.bleu
    found = low & rare if combine == "and" else low | rare
    if by_memorisation:
        found &= np.array(reading.memorisation) <= limits.memorisation
    past = np.array(before or [False] * len(found))
    return [bool(now) for now in found | past]


def left_by(reading: EpochReading, limits: Limits) -> dict[str, int]:
    """How many sequences each measure alone calls forgotten."""
    return {
        "bertscore": int((np.array(reading.bertscore) < limits.bertscore).sum()),
        "bleu": int((np.array(reading.bleu) < limits.bleu).sum()),
        "memorisation": int((np.array(reading.memorisation) <= limits.memorisation).sum()),
    }


def violation(reading: EpochReading, limits: Limits) -> float:
    """How far the averages are from their limits: 0 where both are met, 1 a whole limit above;
    infinite where one of them is no number."""
    excess = [
        (value - limit) / max(limit, 1e-6)
        for value, limit in (
            (reading.mean_extraction, limits.extraction),
            (reading.mean_memorisation, limits.memorisation),
        )
    ]
    return max(0.0, *excess) if np.isfinite(excess).all() else math.inf


def best_epoch(readings: Sequence[EpochReading], limits: Limits) -> EpochReading:
    """The first epoch that meets both limits; none does: that of the least violation, the earliest.

    The first, since each further epoch costs utility and the limits ask for no more.
    """
    return min(readings, key=lambda reading: (violation(reading, limits), reading.epoch))
