"""The config's `objective` of a training: one section a method, told apart by `name`.

A section's `texts` says whether single texts are all that the objective is trained on; the others
take items of several roles (see the objective's own module).
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from rnr_dist.config.base import Count, Positive, Section

Weight = Annotated[float, Field(ge=0)]
Retained = Annotated[int, Field(ge=0, le=64)]


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


class IcuObjective(Section):
    """ICU (Eq. 6): forget the target, learn its pairs, stay at theta0 on them."""

    name: Literal["icu"] = "icu"
    texts: ClassVar[bool] = False
    forget_weight: Weight = 1.0
    """Weight of the target's log-likelihood, L_fgt; 0 switches the term off."""
    learn_weight: Weight = 0.5
    """alpha: weight of the pairs' cross-entropy, L_lrn."""
    kl_weight: Weight = 1.0
    """beta: weight of KL(theta0 || theta) on the pairs and on what is retained, L_kl."""
    retain: Retained = 3
    """Further texts a target that L_kl holds at theta0, of the pool and of general text, others
    in each epoch; 0 leaves L_kl to the pairs (the paper's)."""
    reduction: Literal["token", "sequence"] = "token"
    """A term's mean: over valid tokens, or over sequences of the sum over t (the paper's)."""
    divergence: Literal["kl", "cross_entropy"] = "kl"
    """`cross_entropy`: H(theta0, theta), the reference code's K: KL plus a constant."""
    whole: bool = False
    """All tokens count, not only those from t0 on."""
    ceiling: Positive | None = None
    """Nats of -log q from which on a token of the target is pushed no further, as it is forgotten:
    one that was never seen has some 3 where the model is wrong. null: no end (the papers')."""
    natural: bool = False
    """true: a token's ceiling is theta0's mean -log q of the same token in never-seen sequences,
    where they hold it and that is below `ceiling`. What any text of the form says stays likely;
    names and numbers go."""


class KumprObjective(Section):
    """Gradient ascent on the target (Jang et al. 2023)."""

    name: Literal["kumpr"] = "kumpr"
    texts: ClassVar[bool] = False
    whole: bool = True
    """All tokens count, as its authors have it."""


class KlObjective(Section):
    """Gradient ascent on the target, KL(theta0 || theta) on the pairs."""

    name: Literal["kl"] = "kl"
    texts: ClassVar[bool] = False
    kl_weight: Weight = 1.0
    """Weight of the KL."""
    retain: Retained = 3
    """Further texts a target that the KL holds, as ICU's."""
    whole: bool = True
    """All tokens count, the target's and its pairs'."""


class LlmuObjective(Section):
    """LLMU (Yao et al. 2024): ascent, mismatched answers to the target's prefix, KL."""

    name: Literal["llmu"] = "llmu"
    texts: ClassVar[bool] = False
    forget_weight: Weight = 0.5
    """Weight of the target's log-likelihood."""
    mismatch_weight: Weight = 1.0
    """Weight of the cross-entropy of other sequences' ends behind the target's prefix."""
    kl_weight: Weight = 1.0
    """Weight of KL(theta0 || theta) on the pairs and on what is retained."""
    retain: Retained = 3
    """Further texts a target that the KL holds, as ICU's."""
    mismatches: Count = 5
    """Other ends of each target."""


ObjectiveSection = Annotated[
    CausalObjective
    | DpoObjective
    | RmuObjective
    | CmdObjective
    | OrthogonalObjective
    | IcuObjective
    | KumprObjective
    | KlObjective
    | LlmuObjective,
    Field(discriminator="name"),
]
