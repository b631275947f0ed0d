"""The schema of a run: every key with its meaning, unit and bounds.

In: plain values (`config_file` reads them). Out: a validated, frozen `Config`. Invariant: unknown
keys are errors and values never change.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from rnr_dist.config_base import Count, Fraction, Positive, Sampling, Section
from rnr_dist.config_objectives import CausalObjective, ObjectiveSection
from rnr_dist.config_reveal import Reveal
from rnr_dist.types import Split, digest


class ContextSource(Section):
    """Where generation contexts come from."""

    source: str
    """`builtin:NAME`, a file (`.txt` one a line, `.jsonl`), or `hub:NAME[:SPLIT]`."""
    format: Literal["lines", "rtp"] = "lines"
    """`rtp` reads RealToxicityPrompts rows (`prompt`, `continuation` with scores)."""
    min_prompt_toxicity: Fraction = 0.0
    """RealToxicityPrompts only: keep rows whose prompt scores at least this."""
    max_prompt_toxicity: Fraction = 1.0
    """RealToxicityPrompts only: keep rows whose prompt scores at most this."""
    splits: dict[Split, Annotated[float, Field(ge=0)]]
    """Relative share of each split; a context's split follows from a hash of its text."""
    limit: dict[Split, Count] = Field(default_factory=dict)
    """At most so many contexts of a split are used (the first by hash)."""


class TextSource(Section):
    """Where passages of running text come from."""

    source: str
    """`builtin:NAME`, a text file, or `hub:NAME[:SPLIT]`."""
    format: Literal["passages", "wikitext"] = "passages"
    """`passages`: blank lines between them. `wikitext`: WikiText's headings and lines."""
    splits: dict[Split, Annotated[float, Field(ge=0)]]
    """Relative share of each split; a passage's split follows from a hash of its text (of its
    article's first line for `wikitext`)."""
    limit: dict[Split, Count] = Field(default_factory=dict)
    """At most so many passages of a split are used (the first by hash)."""


class ToxicityTask(Section):
    """Forget toxic continuations (paper section 4.3)."""

    name: Literal["toxicity"] = "toxicity"
    challenging: ContextSource
    """Openings that invite toxic continuations."""
    ordinary: ContextSource
    """Harmless openings: retained behaviour, and the non-challenging half of the measures."""
    in_domain: list[TextSource] = Field(min_length=1)
    """Running text of the retain domain: its `retain` split trains, the others measure; sources
    may share out the splits."""
    out_of_domain: list[TextSource] = Field(min_length=1)
    """Running text of other domains, never trained on; each split of another domain if possible."""
    oracle: str = "profanity"
    """Relevance oracle: search, selection and the main measures use it."""
    second_judge: str = "lexicon"
    """Reads the final samples only; takes no part in search or training."""
    toxic_above: Fraction = 0.5
    """A continuation counts as toxic above this oracle score."""


class Engines(Section):
    """The generator pool: N vLLM engines behind Ray actors."""

    count: Count = 2
    """Generator actors."""
    cpus_each: Count = 1
    """Cores of each engine on a CPU (own core list); ignored on GPUs."""
    gpus_each: Annotated[float, Field(ge=0)] = 0
    """GPUs of each engine; 0 picks CPU engines. A fraction shares one GPU; above 1 it is tensor
    parallelism."""
    max_model_len: Count = 1024
    """Tokens of prompt and output together."""
    kv_cache_gib: Positive = 0.5
    """KV cache of one engine, GiB."""
    max_num_seqs: Count = 128
    """Sequences decoded together in one engine."""
    in_flight: Count = 2
    """Request batches that one engine holds at once, so that it never drains between them."""
    batch: Count = 64
    """Sequences in one request batch."""
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """Weights and activations; `auto`: bfloat16 where the machine computes in it, else float32."""
    enforce_eager: bool = True
    """No graph compilation: 21 s instead of 90 s to start on a CPU, and weights can be reloaded."""
    max_restarts: Annotated[int, Field(ge=0)] = 3
    """Restarts of a generator actor before the run fails."""
    extra: dict[str, Any] = Field(default_factory=dict)
    """Further vLLM engine arguments, passed on as they are."""


class Training(Section):
    """One adapter training: Ray Train + DeepSpeed."""

    objective: ObjectiveSection = CausalObjective()
    """What is minimised: a section whose `name` says which."""
    parameters: Literal["lora", "matrices"] = "lora"
    """`lora` trains a LoRA on each chosen layer. `matrices` trains the layers' weight matrices
    themselves, in fp32, and saves what changed exactly, as a LoRA of full rank."""
    rank: Count = 8
    """LoRA rank r."""
    alpha: Count = 16
    """LoRA alpha; the delta is scaled by alpha / r."""
    dropout: Fraction = 0.0
    """LoRA dropout."""
    target_modules: list[str] = Field(default=["q_proj", "k_proj", "v_proj", "o_proj"])
    """Linear layers that are trained, by the ends of their names."""
    layers: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] | None = None
    """Decoder layers that they are trained in, 0 the first; left out: all."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, a third more time."""
    learning_rate: Positive = 2e-4
    """Peak AdamW learning rate."""
    epochs: Count = 3
    """Passes over the data."""
    batch_size: Count = 16
    """Items of one optimiser step, over all workers: sequences, or pairs and the like where the
    objective takes several together."""
    micro_batch_tokens: Count = 512
    """Padded tokens that one worker holds at once (one item at least); the result is the same.
    GPUs want 8,192 or more."""
    max_tokens: Count = 192
    """Longer sequences are cut."""
    warmup_share: Fraction = 0.1
    """Share of the steps with a rising learning rate; it decays linearly afterwards."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """AdamW weight decay."""
    clip_norm: Positive = 1.0
    """Gradient norm limit."""

    @model_validator(mode="after")
    def _has_lora(self) -> Training:
        if self.objective.name == "orthogonal" and self.parameters != "lora":
            raise ValueError("objective orthogonal needs parameters lora")
        return self


class Workers(Section):
    """Ray Train workers and DeepSpeed."""

    count: Count = 1
    """Training workers."""
    cpus_each: Count = 2
    """Threads of a CPU worker."""
    gpus_each: Annotated[int, Field(ge=0, le=1)] = 0
    """1 trains on GPUs."""
    zero_stage: Annotated[int, Field(ge=0, le=3)] = 0
    """DeepSpeed ZeRO stage."""
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """Frozen weights and activations, as of the engines; the LoRA itself is always fp32."""
    max_failures: Annotated[int, Field(ge=0)] = 2
    """Restarts of a training before the run fails."""


class Retain(Section):
    """What the retain adapters are trained on."""

    responses_per_context: Annotated[int, Field(ge=0)] = 4
    """The base model's own answers to each ordinary `retain` context."""
    detoxified_per_context: Annotated[int, Field(ge=0)] = 0
    """The base model's least toxic answers to each challenging `train` context."""
    response: Sampling = Sampling(n=1, max_tokens=32, temperature=1.0, top_p=0.9)
    """Sampling of those answers; `n` is set by the two counts above."""
    passages: bool = True
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


class Release(Section):
    """Eq. 1 and the 90 %/95 % rules (paper section 3.2, design decision 5)."""

    iterations: Annotated[int, Field(ge=0)] = 1
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
    final_keep_share: Fraction = 0.95
    """Utility against the base that the last subtraction may not go below."""
    guard_share: Fraction = 0.15
    """Outputs may not be shorter, emptier or more repetitive than the base's by more than this."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.9
    """P with which a rule must hold under the paired bootstrap."""
    lambda_winner: Literal["utility", "forget"] = "utility"
    """Among feasible additions: the highest utility, or the lowest forget score."""
    search: Sampling = Sampling(n=10)
    """Sampling of a candidate's forget score."""
    reread: Annotated[int, Field(ge=0)] = 3
    """Best candidates read again on fresh samples before one wins."""
    reread_draws: Count = 2
    """So many times `search.n` fresh continuations a context are drawn for that."""

    @model_validator(mode="after")
    def _texts_are_enough(self) -> Release:
        for role in ("forget", "retain"):
            objective = getattr(self, role).objective
            if not objective.texts:
                raise ValueError(
                    f"{role}.objective.name {objective.name} needs more than {role} texts; "
                    "expected causal or orthogonal"
                )
        return self


class Perplexity(Section):
    """Windows of running text."""

    window: Annotated[int, Field(ge=8)] = 256
    """Tokens in one window."""
    stride: Annotated[int, Field(ge=1)] = 256
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


class Tracking(Section):
    """MLflow."""

    uri: str = ""
    """Tracking server; empty is a sqlite file beside the runs."""
    experiment: str = "rnr"
    """Experiment name."""


class Config(Section):
    """A whole run."""

    name: str
    """Names the run."""
    seed: int = 0
    """Seeds arms, bandit, training and bootstrap; sampling of text is not reproducible."""
    model: str = "embedded:smollm2-135m-instruct"
    """`embedded:NAME`, a local folder, or a hub name."""
    trust_remote_code: bool = False
    """Run code that a hub model brings. Off unless you trust its author."""
    task: ToxicityTask
    engines: Engines = Engines()
    workers: Workers = Workers()
    reveal: Reveal = Reveal()
    retain: Retain = Retain()
    release: Release = Release()
    perplexity: Perplexity = Perplexity()
    evaluate: Evaluate = Evaluate()
    tracking: Tracking = Tracking()

    @model_validator(mode="after")
    def _windows_fit(self) -> Config:
        if self.perplexity.window >= self.engines.max_model_len:
            raise ValueError(
                f"perplexity.window {self.perplexity.window} must be below engines.max_model_len "
                f"{self.engines.max_model_len}"
            )
        return self

    def fingerprint(self, *keys: str) -> str:
        """Digest of the named sections (dotted keys), for stage manifests."""
        content = self.model_dump(mode="json")
        chosen = {}
        for key in keys:
            value: Any = content
            for part in key.split("."):
                value = value[part]
            chosen[key] = value
        return digest(chosen)
