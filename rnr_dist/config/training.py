"""The config of a training: what is trained, how, and by which workers."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator

from rnr_dist.config.base import Count, Flag, Fraction, Many, Positive, Section, Weight, Whole
from rnr_dist.config.named import by_name
from rnr_dist.config.registry import method_class
from rnr_dist.errors import InputError


class ObjectiveSettings(Section):
    """What a training minimises; a method's own objective extends it with its settings."""

    name: str
    texts: ClassVar[bool] = False
    """Whether single texts are all that it is trained on; others take items of several parts."""
    head_alone: ClassVar[bool] = False
    """Whether its losses ask the model's head alone, so that nothing may come after that."""


# Texts that an item takes beside what is forgotten.
Retained = Annotated[Whole, Field(le=64)]


class CausalObjective(ObjectiveSettings):
    """Cross-entropy of the responses."""

    name: Literal["causal"] = "causal"
    texts: ClassVar[bool] = True


class OrthogonalObjective(ObjectiveSettings):
    """Causal, and O-LoRA's regulariser: the LoRA's A orthogonal to those of earlier adapters."""

    name: Literal["orthogonal"] = "orthogonal"
    texts: ClassVar[bool] = True
    weight: Weight = 0.5
    """lambda_1: weight of the sum of |A_old A_new^T| over entries, modules and adapters."""
    against: Literal["forget", "all"] = "forget"
    """The earlier adapters: the forget adapters in the model that is trained on, or all in it."""


PLAIN: dict[str, type[ObjectiveSettings]] = {
    "causal": CausalObjective,
    "orthogonal": OrthogonalObjective,
}


def objective_schema(name: str) -> type[ObjectiveSettings]:
    """The settings of an objective: a plain one, or that of the method of this name."""
    if name in PLAIN:
        return PLAIN[name]
    objective = method_class(name).Objective
    if objective is None:
        raise InputError(f"objective {name}: that method has no objective; expected another")
    schema: type[ObjectiveSettings] = objective.Settings
    return schema


class Training(Section):
    """One adapter training: Ray Train + DeepSpeed."""

    objective: Annotated[
        SerializeAsAny[ObjectiveSettings], BeforeValidator(by_name(objective_schema, "causal"))
    ] = CausalObjective()
    """What is minimised: a section whose `name` says which."""
    parameters: Literal["lora", "matrices", "full"] = "lora"
    """`lora` trains a LoRA on each chosen layer. `matrices` trains the layers' weight matrices
    themselves, in fp32, and saves what changed exactly, as a LoRA of full rank. `full` trains every
    weight, in fp32, and saves a new checkpoint (unlearning of sequences only)."""
    frozen: Literal["plain", "nf4"] = "plain"
    """The weights below a LoRA. `plain`: in `workers.dtype`. `nf4`: the linear layers in four bits,
    a third of the memory (QLoRA); needs the package bitsandbytes on every worker, and not ZeRO 3.
    The adapter is then merged into the plain weights."""
    rank: Count = 8
    """LoRA rank r."""
    alpha: Count = 16
    """LoRA alpha; the delta is scaled by alpha / r."""
    dropout: Fraction = 0.0
    """LoRA dropout."""
    target_modules: list[str] = Field(
        min_length=1, default=["q_proj", "k_proj", "v_proj", "o_proj"]
    )
    """Linear layers that are trained, by the ends of their names."""
    layers: Annotated[list[Whole], Field(min_length=1)] | None = None
    """Decoder layers that they are trained in, 0 the first; left out: all."""
    gradient_checkpointing: Flag = False
    """Compute activations again in the backward pass: less memory, a third more time."""
    learning_rate: Positive = 2e-4
    """Peak AdamW learning rate."""
    epochs: Count = 3
    """Passes over the data."""
    tokens: Many | None = None
    """Instead of `epochs`: end with the step that reaches so many trained tokens."""
    batch_size: Count = 16
    """Items of one optimiser step, over all workers: sequences, or pairs and the like where the
    objective takes several together."""
    micro_batch_tokens: Count = 512
    """Padded tokens that one worker holds at once (one item at least); the result is the same.
    Left out: 512 (1,024 for methods by epochs), on GPUs 8,192."""
    max_tokens: Count = 192
    """Longer sequences are cut."""
    warmup_share: Fraction = 0.1
    """Share of the steps with a rising learning rate; it decays linearly afterwards."""
    schedule: Literal["linear", "constant"] = "linear"
    """`constant` neither rises nor decays; what stops by a measure knows no last step."""
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    """AdamW's decay of its two moments."""
    weight_decay: Weight = 0.0
    """AdamW weight decay."""
    clip_norm: Positive | None = 1.0
    """Gradient norm limit; null does not clip."""

    @model_validator(mode="after")
    def _has_lora(self) -> Training:
        if self.objective.name == "orthogonal" and self.parameters != "lora":
            raise ValueError("objective orthogonal needs parameters lora")
        if self.frozen == "nf4" and self.parameters != "lora":
            raise ValueError(
                f"frozen nf4: found parameters {self.parameters}, which trains weights themselves; "
                "expected lora"
            )
        return self


class Workers(Section):
    """Ray Train workers and DeepSpeed."""

    count: Count = 1
    """Training workers."""
    cpus_each: Count = 2
    """Threads of a worker; one on CPUs holds as many cores."""
    gpus_each: Annotated[Whole, Field(le=1)] = 0
    """1 trains on GPUs."""
    zero_stage: Annotated[Whole, Field(le=3)] = 0
    """DeepSpeed ZeRO stage: what is divided over the workers. 1: the optimiser's states; 2: the
    gradients too; 3: the weights too, also while they are loaded."""
    offload: Literal["nothing", "optimiser", "weights"] = "nothing"
    """What lies in the machine's memory instead of the GPU's, for less speed. `optimiser`: its
    states and its step (ZeRO 1 to 3). `weights`: those too (ZeRO 3)."""
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """Frozen weights and activations, as of the engines; the LoRA itself is always fp32."""
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2"] = "auto"
    """How attention is computed while training. `auto`: what transformers takes, mostly torch's own
    (`sdpa`); `flash_attention_2` needs the package flash-attn on every worker."""
    max_failures: Whole = 2
    """Restarts of a training before the run fails."""
    checkpoint_seconds: Weight = 60
    """A training's state is kept, in place of the one before, once that is so old: where it goes on
    when a worker or the whole run ended. Take more where a state is large."""

    @model_validator(mode="after")
    def _divided(self) -> Workers:
        least = {"nothing": 0, "optimiser": 1, "weights": 3}[self.offload]
        if self.zero_stage < least:
            raise ValueError(
                f"offload {self.offload}: found zero_stage {self.zero_stage}; expected "
                f"{'3' if least == 3 else '1 to 3'}"
            )
        return self
