"""Oracles: the relevance of a response in [0, 1]. One small class each, named in `ORACLES`.

In: a name, `package.module:Class` for one of a user's own, or a section of settings with a name.
Out: an `Oracle`. Invariant: an oracle of a user's own has answered two texts in the right shape
before anything starts, and what one that ships needs (a key, a folder, labels) is there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from rnr_dist.config.oracles import Named, settings_of
from rnr_dist.config.registry import oracle_class, registered_oracle
from rnr_dist.errors import InputError

ORACLES = {
    "profanity": "rnr_dist.score.oracles.profanity:ProfanityOracle",
    "lexicon": "rnr_dist.score.oracles.lexicon:LexiconOracle",
    "hf:MODEL": "rnr_dist.score.oracles.classifier:ClassifierOracle",
    "detoxify": "rnr_dist.score.oracles.detoxify:DetoxifyOracle",
    "rubric": "rnr_dist.score.oracles.rubric:RubricOracle",
    "entities": "rnr_dist.score.oracles.entities:EntitiesOracle",
    "perspective": "rnr_dist.score.oracles.perspective:PerspectiveOracle",
    "tests": "rnr_dist.score.oracles.tests:TestsOracle",
}
# The module that each works with, of the extra `demo`.
ORACLE_PACKAGES = {"profanity": "profanity_check", "lexicon": "better_profanity"}
PROBES = ("The tide turns twice a day.", "")


class Oracle(Protocol):
    """Scores (context, response) pairs. `version` stands beside every score.

    A class with `Settings`, an `OracleSettings`, is made with one of these, others with nothing.
    One that ships may have `check(settings)`, which raises InputError before anything starts.
    """

    version: str

    def score(self, contexts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        """(n,) floats in [0, 1]."""
        ...


def make_oracle(named: Named) -> Oracle:
    """The oracle of that name, with its settings. Raises InputError."""
    settings = settings_of(named)
    found = oracle_class(settings.name)
    oracle: Oracle = found(settings) if hasattr(found, "Settings") else found()
    return oracle


def check_oracle(named: Named) -> None:
    """Raises InputError for a name that leads nowhere, an own oracle that answers wrongly, and one
    that ships and lacks what it needs."""
    settings = settings_of(named)
    name, found = settings.name, oracle_class(settings.name)
    if registered_oracle(name, ORACLES):
        if hasattr(found, "check"):
            found.check(settings)
        return
    oracle = make_oracle(settings)
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
