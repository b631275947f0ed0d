"""The config's `baselines`: the methods beside R&R, each with its paper's settings.

In: plain values. Out: what each method is trained with and tuned over. Invariant: the budget is
not set here: every method gets R&R's own number of candidates and of trained tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from rnr_dist.config.base import Count, Fraction, Positive, Section, above_defaults, merged
from rnr_dist.config.objectives import CmdObjective, DpoObjective, RmuObjective
from rnr_dist.config.sources import ContextSource
from rnr_dist.config.training import Training
from rnr_dist.types import Split

MethodName = Literal["pem_external", "ext_sub", "dpo", "rmu", "cmd"]


class Tuned(Section):
    """One method: how it trains, and the grid that its best candidate is chosen from."""

    training: Training
    """Its training; `epochs` gives way to the token budget."""
    grid: Annotated[list[dict[str, Any]], Field(min_length=1)]
    """Overrides of `training`, one training each, e.g. `{learning_rate: 3e-4}`; they share the
    token budget."""
    low: Positive
    """Smallest strength: the weight that the method subtracts or adds its adapter with."""
    high: Positive
    """Largest strength; the candidates of a training are spaced geometrically between."""

    @model_validator(mode="after")
    def _usable(self) -> Tuned:
        if self.low > self.high:
            raise ValueError("low must not be above high")
        for overrides in self.grid:
            if self.trained_with(overrides).parameters == "full":
                raise ValueError("parameters full is no adapter; expected lora or matrices")
        return self

    def trained_with(self, overrides: Mapping[str, Any]) -> Training:
        """The training of one place of the grid."""
        return Training.model_validate(merged(self.training.model_dump(), overrides))


def _rates(*rates: float) -> list[dict[str, Any]]:
    return [{"learning_rate": rate} for rate in rates]


class Baselines(Section):
    """Methods that are put beside R&R on the same data, budget and measures."""

    methods: list[MethodName] = Field(default=["pem_external", "ext_sub", "dpo", "rmu", "cmd"])
    """Which of them run, in this order."""
    external: ContextSource = ContextSource(
        source="builtin:external", format="rtp", splits={Split.TRAIN: 1}
    )
    """External (context, reference) pairs of the target, for `pem_external` alone."""
    external_above: Fraction = 0.5
    """Only references above this toxicity are learnt, where the source brings scores."""
    continuations: Count = 25
    """The base model's continuations of each challenging `train` context: CMD's and DPO's
    positives are the least toxic of them."""
    negative_above: Fraction = 0.3
    """CMD: continuations above this oracle score are negatives."""
    segment_words: Count = 6
    """CMD: words of the context's segments, of which the toxic ones are written anew."""
    pem_external: Tuned = Tuned(
        training=Training(rank=8, alpha=16), grid=_rates(3e-4, 1e-3), low=0.05, high=3
    )
    """Subtract an adapter that was trained on external pairs (Zhang et al. 2023)."""
    ext_sub: Tuned = Tuned(
        training=Training(rank=8, alpha=16), grid=_rates(3e-4, 1e-3), low=0.1, high=6
    )
    """Ext-Sub (Hu et al. 2024): expert on retain data, anti-expert on the forget set; the strength
    is its alpha."""
    dpo: Tuned = Tuned(
        training=Training(objective=DpoObjective()),
        grid=_rates(3e-4, 1e-3, 3e-3),
        low=0.5,
        high=4,
    )
    """DPO (Rafailov et al. 2024): chosen the base's least toxic continuation, rejected a forget
    row of the same context."""
    rmu: Tuned = Tuned(
        training=Training(
            objective=RmuObjective(),
            parameters="matrices",
            target_modules=["down_proj"],
            layers=[5, 6, 7],
            batch_size=4,
            learning_rate=5e-5,
        ),
        grid=[
            {"learning_rate": rate, "objective": {"coefficient": c}}
            for rate, c in ((5e-5, 6.5), (1e-3, 20.0), (1e-3, 100.0))
        ],
        low=0.5,
        high=64,
    )
    """RMU (Li et al. 2024): steers the forget rows' hidden states away."""
    cmd: Tuned = Tuned(
        training=Training(objective=CmdObjective(), rank=8, alpha=16),
        grid=_rates(3e-4, 1e-3, 3e-3),
        low=0.5,
        high=4,
    )
    """CMD (Tang et al. 2024): learns clean continuations of detoxified contexts."""

    @model_validator(mode="before")
    @classmethod
    def _above_the_defaults(cls, content: Any) -> Any:
        """A method's section may name single keys; its paper's settings stay for the others."""
        return above_defaults(cls, Tuned, content)

    @model_validator(mode="after")
    def _objectives_fit(self) -> Baselines:
        wanted = {"pem_external": "causal", "ext_sub": "causal", "dpo": "dpo"}
        wanted |= {"rmu": "rmu", "cmd": "cmd"}
        for name, objective in wanted.items():
            found = getattr(self, name).training.objective.name
            if found != objective:
                raise ValueError(
                    f"{name}.training.objective.name: found {found}, expected {objective}"
                )
        return self
