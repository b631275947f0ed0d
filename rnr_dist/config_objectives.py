"""The config's `objective` of a training: one section a method, told apart by `name`.

A section's `texts` says whether single texts are all that the objective is trained on; the others
take items of several roles (see the objective's own module).
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from rnr_dist.config_base import Count, Positive, Section

Weight = Annotated[float, Field(ge=0)]


class CausalObjective(Section):
    """Cross-entropy of the responses."""

    name: Literal["causal"] = "causal"
    texts: ClassVar[bool] = True


class DpoObjective(Section):
    """Direct preference optimisation: prefer the chosen response to the rejected one."""

    name: Literal["dpo"] = "dpo"
    texts: ClassVar[bool] = False
    beta: Positive = 0.1
    """Weight of the log-ratios (nats) against theta0; larger stays closer to it."""
    retain_weight: Weight = 0.0
    """Weight of the cross-entropy (nats a token) of retain texts; 0 takes none."""


class RmuObjective(Section):
    """Representation misdirection: steer the forget texts' hidden states to a random direction.

    Meant for `parameters: matrices`, `target_modules: [down_proj]`, `layers: [5, 6, 7]` (`layer`
    and the two before it), `learning_rate: 5e-5`, `batch_size: 4`.
    """

    name: Literal["rmu"] = "rmu"
    texts: ClassVar[bool] = False
    layer: Annotated[int, Field(ge=0)] = 7
    """Decoder layer whose output is steered, 0 the first; later layers do not run."""
    coefficient: Positive = 6.5
    """c: length of the vector that the forget texts' hidden states are steered to (6.5 to 20)."""
    alpha: Weight = 1200.0
    """Weight of the retain texts' hidden states staying where theta0 has them (100 to 1,200)."""


class CmdObjective(Section):
    """CMD's training: cross-entropy of a clean response, and a contrast to toxic ones."""

    name: Literal["cmd"] = "cmd"
    texts: ClassVar[bool] = False
    contrast_weight: Weight = 0.5
    """Weight of the contrast (InfoNCE, nats)."""
    temperature: Positive = 1.0
    """tau: divides the cosines."""
    negatives: Count = 3
    """Toxic responses of an item, at most; it may have none."""


class OrthogonalObjective(Section):
    """Causal, and O-LoRA's regulariser: the LoRA's A orthogonal to those of earlier adapters."""

    name: Literal["orthogonal"] = "orthogonal"
    texts: ClassVar[bool] = True
    weight: Weight = 0.5
    """lambda_1: weight of the sum of |A_old A_new^T| over entries, modules and adapters."""
    against: Literal["forget", "all"] = "forget"
    """The earlier adapters: the forget adapters in the model that is trained on, or all in it."""


ObjectiveSection = Annotated[
    CausalObjective | DpoObjective | RmuObjective | CmdObjective | OrthogonalObjective,
    Field(discriminator="name"),
]
