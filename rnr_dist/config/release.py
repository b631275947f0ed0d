"""The config's `retain` and `release`: Eq. 1 and its rules (paper section 3.2)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from rnr_dist.config.base import Count, Flag, Fraction, Number, Positive, Sampling, Section, Whole
from rnr_dist.config.training import Training


class Retain(Section):
    """What the retain adapters are trained on."""

    responses_per_context: Whole = 4
    """The base model's own answers to each `retain` context."""
    mild_per_context: Whole = 0
    """The base model's answers to each `train` context that hold the least of the target."""
    response: Sampling = Sampling(n=1, max_tokens=32, temperature=1.0, top_p=0.9)
    """Sampling of those answers; `n` is set by the two counts above."""
    passages: Flag = True
    """Also the `retain` passages of the in-domain text."""


class Coefficients(Section):
    """Candidates of one merge weight."""

    low: Positive
    """Smallest candidate."""
    high: Positive
    """Largest candidate."""
    trials: Count = 6
    """Candidates, geometrically spaced, both ends included."""

    @model_validator(mode="after")
    def _ordered(self) -> Coefficients:
        if self.low > self.high:
            raise ValueError("low must not be above high")
        return self


class Joint(Section):
    """A search over all coefficients together, after the last iteration of Eq. 1."""

    trials: Whole = 0
    """Sets of coefficients to try; 0 leaves the model as Eq. 1 ended."""
    spread: Annotated[Number, Field(gt=1, le=100)] = 2.5
    """Each coefficient is searched between its value over this and its value times this."""


class Release(Section):
    """Eq. 1 and the 90 %/95 % rules (paper section 3.2; "Rules hold by bounds", docs/design.md)."""

    iterations: Whole = 1
    """t of Eq. 1: additions and subtractions after the first subtraction."""
    forget: Training = Training()
    """Training of forget adapters."""
    retain: Training = Training()
    """Training of retain adapters."""
    forget_prompt: Literal["context", "query"] = "context"
    """What precedes a response when a forget adapter is trained: the bare context, so that the
    behaviour is forgotten without the instruction, or the whole query."""
    mu0: Coefficients = Coefficients(low=0.5, high=6)
    """First subtraction."""
    lam: Coefficients = Coefficients(low=0.1, high=1.5)
    """Additions."""
    mu: Coefficients = Coefficients(low=0.05, high=1)
    """Later subtractions."""
    forget_share: Fraction = 0.9
    """Rule 1: the share of the target behaviour that a subtraction must remove."""
    keep_share: Fraction = 0.95
    """lambda's rule: the share of the utility before the cycle's subtraction to come back to."""
    restorable: Fraction = 0.2
    """Utility, in shares of the base's, that the addition after a subtraction is trusted to bring
    back: a subtraction may not go further below `keep_share` than that."""
    final_keep_share: Fraction = 0.95
    """Utility against the base that the last subtraction may not go below."""
    guard_share: Fraction = 0.15
    """Outputs may not be shorter, emptier or more repetitive than the base's by more than this."""
    confidence: Annotated[Number, Field(gt=0.5, lt=1)] = 0.9
    """P with which a rule must hold under the paired bootstrap."""
    lambda_winner: Literal["utility", "forget"] = "utility"
    """Among feasible additions: the highest utility, or the lowest forget score."""
    search: Sampling = Sampling(n=10)
    """Sampling of a candidate's forget score."""
    reread: Whole = 3
    """Best candidates read again on fresh samples before one wins."""
    reread_draws: Count = 2
    """So many times `search.n` fresh continuations a context are drawn for that."""
    stop_early: Flag = True
    """End when a cycle (addition and subtraction) gained nothing: the model that it ended with does
    not win, under the rules of the last subtraction, against the one before. It is left out."""
    joint: Joint = Joint()

    @model_validator(mode="after")
    def _texts_are_enough(self) -> Release:
        for side in ("forget", "retain"):
            objective = getattr(self, side).objective
            if getattr(self, side).parameters == "full":
                raise ValueError(f"{side}.parameters full is no adapter; expected lora or matrices")
            if not objective.texts:
                raise ValueError(
                    f"{side}.objective.name {objective.name} needs more than {side} texts; "
                    "expected causal or orthogonal"
                )
        return self
