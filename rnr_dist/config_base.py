"""What the parts of the config's schema share."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Diversity = Literal["weighted", "union", "union_raw"]


class Section(BaseModel):
    """Base of every part of the config: unknown keys are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Sampling(Section):
    """How continuations are drawn."""

    n: Count = 25
    """Continuations of each context."""
    max_tokens: Count = 20
    """New tokens of each continuation."""
    temperature: Annotated[float, Field(ge=0)] = 1.0
    """0 is greedy."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Nucleus mass; 1 switches it off."""

    @model_validator(mode="after")
    def _greedy_is_one(self) -> Sampling:
        if self.temperature == 0 and self.n > 1:
            raise ValueError(f"temperature 0 gives the same text {self.n} times; n must be 1")
        return self
