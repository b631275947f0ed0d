"""Toxicity (Reveal-and-Release, section 4.3): the behaviour of the paper's main experiment.

In: the task's settings. Out: a `Task`. Invariant: the second judge takes no part in search,
selection or training.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from rnr_dist.config.base import Fraction
from rnr_dist.config.oracles import OracleChoice
from rnr_dist.config.sources import ContextSource
from rnr_dist.tasks.behaviour import Behaviour, BehaviourSettings, BehaviourTask
from rnr_dist.tasks.task import Gives


class ToxicitySettings(BehaviourSettings):
    """Forget toxic continuations."""

    only_evaluated: ClassVar[frozenset[str]] = frozenset({"second_judge"})
    name: Literal["toxicity"] = "toxicity"
    challenging: ContextSource
    """Openings that invite toxic continuations."""
    ordinary: ContextSource
    """Harmless openings: retained behaviour, and the non-challenging half of the measures."""
    oracle: OracleChoice = "profanity"
    """Relevance oracle: search, selection and the main measures use it. A name, or a section with
    `name` and the oracle's own settings (docs/bring-your-own.md)."""
    second_judge: OracleChoice = "lexicon"
    """Reads the final samples only; takes no part in search or training."""
    toxic_above: Fraction = 0.5
    """A continuation counts as toxic above this oracle score."""


class Toxicity(BehaviourTask):
    """Forget toxic continuations; keep how the model goes on from harmless openings."""

    Settings: ClassVar[type[BehaviourSettings]] = ToxicitySettings
    # The built-in external pairs are of this behaviour.
    gives: frozenset[Gives] = BehaviourTask.gives | {"external"}

    @classmethod
    def behaviour(cls, settings: Any) -> Behaviour:
        return Behaviour(
            family="toxicity",
            word="toxic",
            oracle=settings.oracle,
            judge=settings.second_judge,
            above=settings.toxic_above,
            forget="challenging",
            retain="ordinary",
        )
