"""The config's `perplexity`, `evaluate` and `tracking`: what is measured and where it is shown."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from rnr_dist.config.base import PLAIN_NAME, Count, Sampling, Section
from rnr_dist.errors import shown
from rnr_dist.types import Split


class Perplexity(Section):
    """Windows of running text."""

    window: Annotated[Count, Field(ge=8)] = 256
    """Tokens in one window."""
    stride: Count = 256
    """Tokens by which windows advance; below `window` the overlap is context only."""
    max_windows: Count = 64
    """Windows of one text that are read, evenly spread."""

    @model_validator(mode="after")
    def _advances(self) -> Perplexity:
        if self.stride > self.window:
            raise ValueError("stride must not be above window")
        return self


class Evaluate(Section):
    """What the report is made of."""

    split: Split = Split.FINAL
    """`final` is read once, at the end; whoever tunes defaults says `dev`."""
    sampling: Sampling = Sampling()
    """Continuations (paper: 25 of 20 tokens, nucleus 0.9)."""
    steps: Literal["all", "ends"] = "all"
    """Evaluate every step of Eq. 1, or only the base and the result."""
    others: dict[str, str] = Field(default_factory=dict)
    """Name and model (as of `model`) of further rows of the table, say one that was trained without
    what must be forgotten. Another vocabulary is allowed: texts are encoded anew for it."""

    @model_validator(mode="after")
    def _names_fit(self) -> Evaluate:
        for name in self.others:
            if not PLAIN_NAME.fullmatch(name):
                raise ValueError(
                    f"others: found the name {shown(name)}, expected letters, digits, dots and "
                    "dashes, 100 at most"
                )
        return self


class Tracking(Section):
    """MLflow."""

    uri: str = ""
    """Tracking server; empty is a sqlite file beside the runs."""
    experiment: Annotated[str, Field(min_length=1, max_length=250)] = "rnr"
    """Experiment name."""
