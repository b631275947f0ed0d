"""A training by epochs as plain data: what is read, when it ends, who leaves.

In: the config's rules, sequences, their levels. Out: an `EpochPlan`, and the job that carries it to
the workers. Invariant: item i of a training belongs to sequence i wherever sequences may leave.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rnr_dist.config.schema import Config
from rnr_dist.config.unlearning import Over, Refinement
from rnr_dist.icu.leaving import Limits
from rnr_dist.measures.memorisation import Counting, Prefixes
from rnr_dist.train.collate import Example
from rnr_dist.train.job import Job
from rnr_dist.types import TokenSequence

NO_RULE = Refinement()


@dataclass(frozen=True)
class Counted:
    """What the EL and MA go over that a training ends by: continuations only, or everything."""

    counting: Counting
    extraction: Over = "continuation"
    memorisation: Over = "continuation"

    @classmethod
    def by(cls, config: Config, counting: Counting) -> Counted:
        """As the config's `stopping` says."""
        stop = config.stopping
        return cls(counting, stop.extraction_over, stop.memorisation_over)

    @property
    def prefixes(self) -> Prefixes:
        return "all" if self.extraction == "all" else "given"

    def first_token(self, sequence: TokenSequence) -> int:
        """MA counts this sequence's tokens from this one on."""
        return 1 if self.memorisation == "all" else sequence.prefix_tokens


@dataclass(frozen=True)
class Ending:
    """When a training by epochs ends.

    until: `forgotten`, both averages are at or below `limits`; `memorised`, the mean EL_n is at or
    above `limits.extraction`. epochs: at most. curves: EL is read even where nothing is decided by
    it.
    """

    until: Literal["forgotten", "memorised"]
    limits: Limits
    epochs: int
    curves: bool = True


@dataclass(frozen=True)
class Leaving:
    """Who leaves the epochs (IUR): a sequence at or below its own of `levels`; nobody without any.

    scorer: BERTScore's encoder; "" scores no text.
    """

    rule: Refinement = NO_RULE
    levels: tuple[Limits, ...] = ()
    scorer: str = ""


@dataclass(frozen=True)
class EpochPlan:
    """sequences: read after each epoch. retained: examples of which an epoch's items take some,
    where the objective has the part `retain`."""

    sequences: Sequence[TokenSequence]
    counted: Counted
    ending: Ending
    leaving: Leaving = Leaving()
    retained: Sequence[Example] = ()


@dataclass(frozen=True)
class EpochJob(Job):
    """`plan` is an object reference to an `EpochPlan`."""

    plan: Any = None
