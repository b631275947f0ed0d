"""Oracles: the relevance of a response in [0, 1]. One small class each, named in `ORACLES`.

In: a name, or `package.module:Class` for one of a user's own. Out: an `Oracle`. Invariant: an
oracle of a user's own has answered two texts in the right shape before anything starts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from rnr_dist.config.registry import find_class
from rnr_dist.errors import InputError

ORACLES = {
    "profanity": "rnr_dist.score.oracles.profanity:ProfanityOracle",
    "lexicon": "rnr_dist.score.oracles.lexicon:LexiconOracle",
}
# The module that each works with, of the extra `demo`.
ORACLE_PACKAGES = {"profanity": "profanity_check", "lexicon": "better_profanity"}
PROBES = ("The tide turns twice a day.", "")


class Oracle(Protocol):
    """Scores (context, response) pairs. `version` stands beside every score."""

    version: str

    def score(self, contexts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        """(n,) floats in [0, 1]."""
        ...


def make_oracle(name: str) -> Oracle:
    """The oracle of that name. Raises InputError."""
    found: Oracle = find_class("oracle", name, ORACLES)()
    return found


def check_oracle(name: str) -> None:
    """Raises InputError for a name that leads nowhere, or an own oracle that answers wrongly."""
    if name in ORACLES:
        return
    oracle = make_oracle(name)
    if not hasattr(oracle, "version"):
        raise InputError(f"oracle {name}: has no `version`; expected one, to stand beside scores")
    try:
        usable_scores(oracle.score(["What happens?"] * len(PROBES), list(PROBES)), len(PROBES))
    except Exception as error:  # whatever a user's own code raises
        raise InputError(f"oracle {name}: {error}") from error


def usable_scores(scores: np.ndarray, expected: int) -> np.ndarray:
    """What an oracle returned, as floats; a ValueError says what is wrong with it."""
    found = np.asarray(scores, dtype=np.float64)
    if found.shape != (expected,):
        raise ValueError(f"the oracle returned shape {found.shape}, expected ({expected},)")
    bad = ~((found >= 0) & (found <= 1))
    if bad.any():
        row = int(bad.argmax())
        raise ValueError(f"the oracle returned {found[row]} for response {row}, expected 0 to 1")
    return found
