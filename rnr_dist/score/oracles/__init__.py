"""Oracles: the relevance of a response in [0, 1]. One small class each, named in `ORACLES`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from rnr_dist.errors import InputError


class Oracle(Protocol):
    """Scores (context, response) pairs. `version` stands beside every score."""

    version: str

    def score(self, contexts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        """(n,) floats in [0, 1]."""
        ...


def _profanity() -> Oracle:
    from rnr_dist.score.oracles.profanity import ProfanityOracle

    return ProfanityOracle()


def _lexicon() -> Oracle:
    from rnr_dist.score.oracles.lexicon import LexiconOracle

    return LexiconOracle()


ORACLES: dict[str, Callable[[], Oracle]] = {"profanity": _profanity, "lexicon": _lexicon}


def check_oracle(name: str) -> None:
    """Raises InputError for an unknown name."""
    if name not in ORACLES:
        raise InputError(f"oracle {name}: unknown; expected one of {', '.join(sorted(ORACLES))}")


def make_oracle(name: str) -> Oracle:
    check_oracle(name)
    return ORACLES[name]()
