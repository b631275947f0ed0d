"""The schema of a run: every key with its meaning, unit and bounds.

In: plain values (`config_file` reads them). Out: a validated, frozen `Config`. Invariant: unknown
keys are errors and values never change.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from rnr_dist.config_base import Count, Fraction, Positive, Sampling, Section
from rnr_dist.config_baselines import Baselines
from rnr_dist.config_reveal import Reveal
from rnr_dist.config_sources import ContextSource, TextSource
from rnr_dist.config_training import Training, Workers
from rnr_dist.types import Split, digest


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
    """The generator pool: N engines behind Ray actors."""

    backend: Literal["auto", "vllm", "transformers"] = "auto"
    """What an engine runs on. `auto`: vLLM where it is installed and serves the model's
    architecture, else transformers; `rnr check` says which and why."""
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
    """vLLM without graph compilation: 21 s instead of 90 s to start on a CPU, and weights can be
    reloaded."""
    max_restarts: Annotated[int, Field(ge=0)] = 3
    """Restarts of a generator actor before the run fails."""
    weights: Literal["reload", "lora"] = "reload"
    """How an engine comes by a composed model. `reload`: its merged weights, one model at a time.
    `lora`: all its terms as one adapter beside the base's weights; several models share a batch,
    and nothing waits for an exchange. GPUs only: vLLM's CPU engine ends when it reads likelihoods
    beside adapters."""
    lora_rank: Literal[8, 16, 32, 64, 128, 256, 320, 512] = 64
    """`lora`: the most that the ranks of a model's terms may sum to."""
    loras: Count = 4
    """`lora`: models beside the base that one engine holds at once."""
    extra: dict[str, Any] = Field(default_factory=dict)
    """Further vLLM engine arguments, passed on as they are; the transformers backend takes none."""


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


class Joint(Section):
    """A search over all coefficients together, after the last iteration of Eq. 1."""

    trials: Annotated[int, Field(ge=0)] = 0
    """Sets of coefficients to try; 0 leaves the model as Eq. 1 ended."""
    spread: Annotated[float, Field(gt=1)] = 2.5
    """Each coefficient is searched between its value over this and its value times this."""


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
    restorable: Fraction = 0.2
    """Utility, in shares of the base's, that the addition after a subtraction is trusted to bring
    back: a subtraction may not go further below `keep_share` than that."""
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
    stop_early: bool = True
    """End when a cycle (addition and subtraction) gained nothing: the model that it ended with does
    not win, under the rules of the last subtraction, against the one before. It is left out."""
    joint: Joint = Joint()

    @model_validator(mode="after")
    def _texts_are_enough(self) -> Release:
        for role in ("forget", "retain"):
            objective = getattr(self, role).objective
            if getattr(self, role).parameters == "full":
                raise ValueError(f"{role}.parameters full is no adapter; expected lora or matrices")
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


class RunConfig(Section):
    """What every run has, whatever its task."""

    name: str
    """Names the run."""
    seed: int = 0
    """Seeds arms, bandit, training and bootstrap; sampling of text is not reproducible."""
    model: str = "embedded:smollm2-135m-instruct"
    """`embedded:NAME`, a local folder, or a hub name."""
    trust_remote_code: bool = False
    """Run code that a hub model brings. Off unless you trust its author."""
    engines: Engines = Engines()
    workers: Workers = Workers()
    perplexity: Perplexity = Perplexity()
    tracking: Tracking = Tracking()

    @model_validator(mode="after")
    def _windows_fit(self) -> RunConfig:
        if self.perplexity.window >= self.engines.max_model_len:
            raise ValueError(
                f"perplexity.window {self.perplexity.window} must be below engines.max_model_len "
                f"{self.engines.max_model_len}"
            )
        return self

    @property
    def engine_slots(self) -> int:
        """Engines that live at once."""
        return self.engines.count

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


class Config(RunConfig):
    """A whole run of Reveal-and-Release."""

    task: ToxicityTask
    reveal: Reveal = Reveal()
    retain: Retain = Retain()
    release: Release = Release()
    evaluate: Evaluate = Evaluate()
    baselines: Baselines = Baselines()

    @model_validator(mode="after")
    def _adapters_fit(self) -> Config:
        rules = self.release
        ranks = rules.forget.rank + rules.iterations * (rules.forget.rank + rules.retain.rank)
        if self.engines.weights == "lora" and ranks > self.engines.lora_rank:
            raise ValueError(
                f"engines.lora_rank {self.engines.lora_rank}: the adapters of release.iterations "
                f"{rules.iterations} have ranks that sum to {ranks}"
            )
        return self

    @property
    def engine_slots(self) -> int:
        """The pool's engines, and one of the instruction writer for a while."""
        return self.engines.count + bool(self.reveal.writer)
