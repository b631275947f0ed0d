"""The config's `engines`: who answers `generate` and `likelihood`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from rnr_dist.config.base import Count, Flag, Many, PlainValues, Positive, Section, Weight, Whole


class Engines(Section):
    """The generator pool: N engines behind Ray actors."""

    backend: Literal["auto", "vllm", "transformers"] = "auto"
    """What an engine runs on. `auto`: vLLM where it is installed and serves the model's
    architecture, else transformers; `rnr check` says which and why."""
    count: Count = 2
    """Generator actors that a run has from its start."""
    most: Count | None = None
    """Generators at most. Above `count` the pool grows while requests wait and the cluster has room
    beside all else that the run needs. Left out: `count`, always."""
    idle_seconds: Positive = 60.0
    """A generator beyond `count` is given back when there was nothing for it to do for so long."""
    cpus_each: Count = 1
    """Cores of each engine on a CPU (own core list); ignored on GPUs."""
    gpus_each: Weight = 0
    """GPUs of each engine; 0 picks CPU engines. A fraction shares one GPU; 2 and more, whole ones
    of one machine, are tensor parallelism."""
    max_model_len: Many = 1024
    """Tokens of prompt and output together."""
    kv_cache_gib: Positive = 0.5
    """KV cache of one engine, GiB. An engine that has a whole GPU, or several, fills what is left
    of nine tenths of it instead."""
    max_num_seqs: Count = 128
    """Sequences decoded together in one engine. Left out: 128, on GPUs 1,024."""
    in_flight: Count = 2
    """Request batches that one engine holds at once, so that it never drains between them."""
    batch: Count = 64
    """Sequences in one request batch. Left out: 64, on GPUs 1,024 over all engines."""
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """Weights and activations; `auto`: bfloat16 where the machine computes in it, else float32."""
    enforce_eager: Flag = True
    """vLLM without graph compilation: 21 s instead of 90 s to start on a CPU, and weights can be
    reloaded."""
    max_restarts: Whole = 3
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
    extra: PlainValues = Field(default_factory=dict)
    """Further vLLM engine arguments, passed on as they are; the transformers backend takes none."""

    @model_validator(mode="after")
    def _least_and_most(self) -> Engines:
        if self.most is not None and self.most < self.count:
            raise ValueError(f"most: found {self.most}, expected at least count, {self.count}")
        return self

    @property
    def greatest(self) -> int:
        """Generators at most."""
        return self.most or self.count

    @model_validator(mode="after")
    def _whole_gpus(self) -> Engines:
        if self.gpus_each > 1 and self.gpus_each % 1:
            raise ValueError(
                f"gpus_each: found {self.gpus_each:g}, expected a part of one GPU or a whole number"
            )
        return self
