"""Which sequences are forgotten, when unlearning ends, and which epoch is the best (section 4.4).

In: scores of continuations by sequence, epoch by epoch. Out: the sequences of the next epoch, and
whether there is one. Pure. Invariant: every rank that is given the same scores decides the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np


@dataclass(frozen=True)
class Limits:
    """What counts as forgotten, of one sequence or on average; a, b of Eq. 5 first."""

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
    levels: Sequence[Limits],
    combine: Literal["and", "or"],
    before: Sequence[bool] = (),
    by_recall: bool = False,
) -> list[bool]:
    """Eq. 5 for each sequence, by its own level. before: what stays forgotten (sticky); empty for
    none.

    by_recall: MA must be at or below the level too, and EL where it was read, so that where all
    have left the averages are at the levels'.
    """
    low = below(reading, levels)
    found = low["bertscore"] & low["bleu"] if combine == "and" else low["bertscore"] | low["bleu"]
    if by_recall:
        found &= low["memorisation"] & (low["extraction"] | np.isnan(reading.extraction))
    past = np.array(before or [False] * len(found))
    return [bool(now) for now in found | past]


def leaving(
    reading: EpochReading,
    levels: Sequence[Limits],
    average: Limits,
    combine: Literal["and", "or"],
    before: Sequence[bool] = (),
    by_recall: bool = False,
) -> list[bool]:
    """Who leaves: the `forgotten`. Where those are all and an average is still above its limit,
    the limits are everyone's levels of EL and MA, and who is above them stays."""
    found = forgotten(reading, levels, combine, before, by_recall)
    if not (by_recall and all(found) and violation(reading, average)):
        return found
    both = {"extraction": average.extraction, "memorisation": average.memorisation}
    return forgotten(
        reading, [replace(level, **both) for level in levels], combine, before, by_recall
    )


def below(reading: EpochReading, levels: Sequence[Limits]) -> dict[str, np.ndarray]:
    """{measure: (sequences,) bool}: a and b are to be fallen below, EL and MA to be reached."""
    found = {}
    for measure in ("bertscore", "bleu", "extraction", "memorisation"):
        value = np.array(getattr(reading, measure))
        level = np.array([getattr(own, measure) for own in levels])
        found[measure] = value < level if measure in ("bertscore", "bleu") else value <= level
    return found


def left_by(reading: EpochReading, levels: Sequence[Limits]) -> dict[str, int]:
    """How many sequences each measure that was read calls forgotten by itself."""
    return {
        measure: int(low.sum())
        for measure, low in below(reading, levels).items()
        if not np.isnan(getattr(reading, measure)).all()
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
