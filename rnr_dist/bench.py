"""What a run works on, as one object that stages hand on: config, base, endpoint, scorer.

In: a config. Out: each of these, started when it is first asked for. Invariant: nothing is started
that no stage asks for, everything that was started ends with the block, and a bench that Ray
carries to a trial holds what was started and starts nothing there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from rnr_dist.config.evaluation import Tracking
from rnr_dist.config.oracles import Named
from rnr_dist.config.schema import Config
from rnr_dist.machine.cluster import placement, ray_session
from rnr_dist.machine.placement import Placement
from rnr_dist.run.progress import say
from rnr_dist.run.tracking import Tracker
from rnr_dist.types import ModelRef

Entered = TypeVar("Entered")
Check = Callable[[Config, Path], None]  # of a checkpoint that had no folder here before


def no_check(config: Config, folder: Path) -> None:
    """Nothing is asked of a checkpoint."""


CARRIED = ("config", "oracle", "base", "tokenizer", "ray", "placement", "scorer", "_serving")


class Bench:
    """Lazily started resources of one run; use as a context manager.

    oracle: of the task, "" for none. check: called with the base's folder once that is on this
    disk. tracker: the run's MLflow records; only the driver's bench has one.
    """

    _tracker: Tracker | None = None  # of a bench that was carried to a trial

    def __init__(
        self,
        config: Config,
        oracle: Named = "",
        tracker: Tracker | None = None,
        check: Check = no_check,
    ):
        self.config, self.oracle = config, oracle
        self._tracker, self._check = tracker, check
        self._stack = contextlib.ExitStack()
        self._engines = contextlib.ExitStack()  # the endpoint alone, which may be exchanged
        self._serving: tuple[str, Any] | None = None

    def __enter__(self) -> Bench:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def __getstate__(self) -> dict[str, Any]:
        carried = {name: self.__dict__[name] for name in CARRIED if name in self.__dict__}
        # Only the driver records: the server's password has no business elsewhere.
        return {**carried, "config": self.config.model_copy(update={"tracking": Tracking()})}

    @property
    def tracker(self) -> Tracker:
        assert self._tracker is not None, "only the driver records"
        return self._tracker

    @cached_property
    def base(self) -> ModelRef:
        """The model that shall forget."""
        from rnr_dist.weights.checkpoints import resolve_model

        base = resolve_model(self.config.model, self.config.trust_remote_code)
        self._check(self.config, Path(base.checkpoint))
        return base

    def work_on(self, model: ModelRef) -> None:
        """Take another model as the one that shall forget: one that a stage has made of the base,
        of the same vocabulary."""
        self.__dict__["base"] = model

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

    def enter(self, context: Callable[[], AbstractContextManager[Entered]]) -> Entered:
        """Enter a context within Ray; it ends with the bench, before Ray does."""
        _ = self.ray
        return self._stack.enter_context(context())

    @property
    def endpoint(self) -> Any:
        """Who answers for the base and all that came of it (`generate.endpoint.Endpoint`)."""
        return self.endpoint_of(self.base)

    def endpoint_of(self, checkpoint: ModelRef) -> Any:
        """Generators started with `checkpoint`; those of another checkpoint are ended first."""
        from rnr_dist.generate.cluster_pool import generator_pool

        if self._serving is None or self._serving[0] != checkpoint.checkpoint_digest:
            _ = self.ray
            self._serving = None
            self._engines.close()
            say(f"starting generators: {self.config.engines.count}")
            pool = self._engines.enter_context(generator_pool(self.config, checkpoint))
            self._serving = checkpoint.checkpoint_digest, pool
        return self._serving[1]

    def beside(self, model: ModelRef) -> Bench:
        """As a bench of a model with an architecture, and perhaps a vocabulary, of its own.

        It holds until this bench is asked for an endpoint again.
        """
        _ = self.endpoint_of(model), self.oracle and self.scorer  # both benches share one
        other = object.__new__(type(self))
        other.__dict__.update({**self.__dict__, "base": model})
        other.__dict__.pop("tokenizer", None)
        return other

    @cached_property
    def placement(self) -> Placement:
        """Who lives where and when on the cluster that Ray has joined."""
        _ = self.ray
        return placement(self.config)

    def make_room(self, reading: bool = False) -> None:
        """End the engines where a training, or `reading` arms' features, has no room beside them;
        where it has, those that the pool has grown by.

        Who asks for an endpoint afterwards starts them again.
        """
        yields = self.placement.reading_yields if reading else self.placement.yielding
        if yields and self._serving is not None:
            say("the generators end: what comes now needs their GPUs")
            self._serving = None
            self._engines.close()
        elif self._serving is not None and self._grows_on_gpus:
            self._serving[1].give_back()

    @property
    def _grows_on_gpus(self) -> bool:
        """Whether the pool may hold a GPU by now that a training needs."""
        engines = self.config.engines
        shared = engines.gpus_each > 0 and self.config.workers.gpus_each > 0
        return shared and engines.greatest > engines.count

    @cached_property
    def scorer(self) -> Any:
        """The task's oracle and the sentence embedder (`score.actors.Scorer`)."""
        from rnr_dist.score.actors import start_scorer

        return start_scorer(self.oracle, self.config.embedder, self.placement.embedder_gpus)
