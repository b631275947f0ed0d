"""The schema of a study: one config run for several seeds and variants, in one table.

In: plain values. Out: a validated `Study`. Invariant: every run of a study has the study's config
but for the keys that a variant or a seed changes, which stand here.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from rnr_dist.config.base import MOST, PLAIN_NAME, Count, FileName, Section, Seed
from rnr_dist.errors import shown


class Study(Section):
    """Methods x seeds x one task, and variants of the config where the question is about those."""

    study: FileName
    """Names the study."""
    config: str
    """The config of every run: a path, relative to this file."""
    until: str = "baselines"
    """The stage that every run goes to: `baselines` puts the config's methods beside its own."""
    seeds: Annotated[list[Seed], Field(min_length=1)] = [0]  # noqa: RUF012
    """One run for each, with that `seed`; each once."""
    by_seed: dict[str, Annotated[int, Field(ge=-MOST, le=MOST, strict=True)]] = Field(
        default_factory=dict
    )
    """Dotted keys whose number grows by so much a seed, so that seeds have data of their own."""
    variants: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Name and overrides (dotted keys) of variants of the config, each run for every seed; left
    out: the config as it is."""
    at_once: Count = 1
    """Runs at the same time, on a cluster that has room for the engines of so many."""

    @model_validator(mode="after")
    def _seeds_differ(self) -> Study:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds: found {self.seeds}, expected each once")
        return self

    @model_validator(mode="after")
    def _seeds_stand_alone(self) -> Study:
        for name, overrides in self.variants.items():
            if "seed" in overrides:
                raise ValueError(f"variants.{name}: found the key seed, expected it in seeds alone")
        return self

    @model_validator(mode="after")
    def _names_fit(self) -> Study:
        for name in self.variants:
            if not PLAIN_NAME.fullmatch(name):
                raise ValueError(
                    f"variants: found the name {shown(name)}, expected letters, digits, dots and "
                    "dashes, 100 at most"
                )
        return self
