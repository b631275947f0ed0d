"""What a run works on, started when it is first needed and ended with the block.

In: a config. Out: Ray, the generator pool, the scorer, the tokenizer, the base model. Invariant:
nothing is started that no remaining stage needs, and everything that was started is ended.
"""

from __future__ import annotations

import contextlib
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

from rnr_dist.config.schema import Config, RunConfig
from rnr_dist.machine.cluster import ray_session
from rnr_dist.run.progress import say
from rnr_dist.types import ModelRef


class Machine:
    """Lazily started resources of one run; use as a context manager."""

    def __init__(self, config: RunConfig):
        self.config = config
        self._stack = contextlib.ExitStack()
        self._engines = contextlib.ExitStack()  # the pool alone, which may be exchanged
        self._started: tuple[str, Any] | None = None

    def __enter__(self) -> Machine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    @cached_property
    def base(self) -> ModelRef:
        """The model that shall forget."""
        from rnr_dist.commands.check import check_checkpoint
        from rnr_dist.weights.checkpoints import resolve_model

        base = resolve_model(self.config.model, self.config.trust_remote_code)
        # Again, for what had no folder on this disk before.
        check_checkpoint(self.config, Path(base.checkpoint))
        return base

    @cached_property
    def tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(
            self.base.checkpoint, trust_remote_code=self.config.trust_remote_code
        )

    @cached_property
    def ray(self) -> None:
        say("starting Ray")
        self._stack.enter_context(ray_session(self.config))
        self._stack.enter_context(self._engines)  # ended before Ray

    @property
    def pool(self) -> Any:
        """Generators of the base's architecture, for it and all that came of it."""
        return self.pool_of(self.base)

    def pool_of(self, checkpoint: ModelRef) -> Any:
        """Generators started with `checkpoint`; those of another architecture are ended first."""
        from rnr_dist.generate.cluster_pool import generator_pool

        _ = self.ray
        if self._started is None or self._started[0] != checkpoint.checkpoint_digest:
            self._started = None
            self._engines.close()
            say(f"starting {self.config.engines.count} generators")
            pool = self._engines.enter_context(generator_pool(self.config, checkpoint))
            self._started = checkpoint.checkpoint_digest, pool
        return self._started[1]

    @cached_property
    def scorer(self) -> Any:
        from rnr_dist.score.actors import start_scorer

        assert isinstance(self.config, Config), "an ICU run has no oracle"
        _ = self.ray
        gpus = 0.1 if self.config.engines.gpus_each > 0 else 0
        return start_scorer(self.config.task.oracle, self.config.reveal.embedder, gpus)
