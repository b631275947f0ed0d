"""Trainings of a run, each done once: what has been trained with the same inputs is taken as it is.

In: items, a training, the model to train on. Out: an `Adapter`, or a model. Invariant: the folder
of what was trained appears whole or not at all, and its note, with the fingerprint of all that it
came from, is written after it; what was interrupted goes on from its last state.
"""

from __future__ import annotations

import contextlib
import math
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, cast

from rnr_dist.bench import Bench
from rnr_dist.config.training import Training
from rnr_dist.errors import InputError
from rnr_dist.run.directory import read, write
from rnr_dist.run.progress import progress_bar, say
from rnr_dist.train.collate import Item
from rnr_dist.train.job import Job
from rnr_dist.train.objectives import check_items, make_objective
from rnr_dist.train.worker import plan_job, train_loop
from rnr_dist.types import Adapter, ModelRef, Side, digest
from rnr_dist.weights.checkpoints import checkpoint_digest
from rnr_dist.weights.composition import adapter_digest, is_whole

Report = Mapping[str, float]
Made = TypeVar("Made", Adapter, ModelRef)


class Listener(Protocol):
    """What a training tells how far it is: MLflow's `Tracker`, or a trial of Tune."""

    def nested(
        self, name: str, params: Mapping[str, Any]
    ) -> contextlib.AbstractContextManager[None]: ...

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None: ...


@dataclass(frozen=True)
class Note:
    """What a training made, and the fingerprint of all that it came from."""

    fingerprint: str
    made: Adapter | ModelRef


@dataclass(frozen=True)
class Order(ABC, Generic[Made]):
    """One kind of training as the launcher sees it: its loop, its units, what it makes.

    job: without its items, which are put into Ray's store when it starts. The name is that of the
    output's folder.
    """

    job: Job
    items: Sequence[Item]

    @property
    def name(self) -> str:
        return self.job.output.name

    @property
    @abstractmethod
    def loop(self) -> Callable[[dict[str, Any]], object]:
        """What runs on the workers."""

    @property
    def inputs(self) -> Any:
        """Plain values that the result follows from, beside items, training, model and seed."""
        return []

    @abstractmethod
    def put(self, store: Callable[[Any], Any]) -> tuple[Job, int]:
        """The job with what it needs in Ray's store, and how many units it takes at most.

        Raises InputError where nothing can be trained on.
        """

    @abstractmethod
    def heard(self, report: Report) -> tuple[dict[str, float], int, str]:
        """A report's figures, the unit that it ends, and a word on it."""

    @abstractmethod
    def diverged(self, report: Report, storage: Path) -> tuple[str, str]:
        """Where the loss was no number (`step 3 of 9`), and a sentence on what is left."""

    @abstractmethod
    def made(self) -> Made:
        """What lies in the output's folder now."""


@dataclass(frozen=True)
class Trainings:
    """Adapters, models and Ray Train's own state go below `folder`; `listener` hears how far each
    is, the bench's tracker unless another is given."""

    bench: Bench
    folder: Path
    listener: Listener | None = None

    def adapter(
        self,
        name: str,
        items: Sequence[Item],
        training: Training,
        side: Side,
        model: ModelRef,
    ) -> Adapter:
        """The adapter of that name, trained on `model` if it is not there already."""
        job = self.job(self.folder / "adapters" / name, training, model)
        return self.once(AdapterOrder(job, items, side))

    def job(self, output: Path, training: Training, model: ModelRef) -> Job:
        """A job without items, by the run's config."""
        config = self.bench.config
        trusted = config.trust_remote_code
        return Job(None, model, training, config.workers, output.absolute(), config.seed, trusted)

    def once(self, order: Order[Made]) -> Made:
        """What the order makes; it is trained if it is not there already.

        Raises InputError for items of other parts than the objective's, where nothing can be
        trained on, for a kept state that no training wrote, and where the loss is not finite; Ray
        Train's error when the workers fail more often than `workers.max_failures`.
        """
        job = order.job
        members = [item.plain for item in order.items]
        settings = job.training.model_dump(mode="json")
        fingerprint = digest([members, job.base.digest, settings, job.seed, order.inputs])
        note = job.output.with_name(f"{order.name}.json")
        if note.exists() and (found := read(note, Note)).fingerprint == fingerprint:
            if is_whole(found.made):
                return cast(Made, found.made)
            say(f"{job.output}: is not what was trained, or gone; trained anew")
        check_items(make_objective(job.training.objective), order.items, str(job.output))
        # ZeRO's states are one a worker: others can't go on with them.
        attempt = digest([fingerprint, job.workers.model_dump(mode="json")])[:8]
        self._train(order, (self.folder / "train" / f"{order.name}-{attempt}").absolute())
        made = order.made()
        write(note, Note(fingerprint, made))
        return made

    def _train(self, order: Order[Any], storage: Path) -> None:
        import ray

        from rnr_dist.train.launch import run_workers
        from rnr_dist.train.states import damage

        if told := damage(storage):
            say(f"{order.name} begins anew, its kept state is damaged ({told})")
            shutil.rmtree(storage)

        def store(value: Any) -> Any:
            _ = self.bench.ray  # started once it is known that there is something to train on
            return ray.put(value)

        job, units = order.put(store)
        self.bench.make_room()
        listener = self.listener or self.bench.tracker
        say(f"training {order.name} on {len(order.items)} items")
        last: dict[str, float] = {}
        with (
            listener.nested(f"train {order.name}", job.training.model_dump(mode="json")),
            progress_bar(order.name, units) as advance,
        ):

            def show(report: dict[str, float]) -> None:
                last.update(report)
                figures, unit, word = order.heard(report)
                finite = {key: value for key, value in figures.items() if math.isfinite(value)}
                listener.metrics(finite, unit)
                advance(unit, word)

            run_workers(order.loop, job, storage, show)
        if not math.isfinite(last["loss"]):
            where, left = order.diverged(last, storage)
            raise InputError(
                f"{job.output}: the loss is {last['loss']} in {where}; expected a finite one: "
                f"lower learning_rate {job.training.learning_rate:g}. {left}"
            )
        shutil.rmtree(storage)


@dataclass(frozen=True)
class StepsOrder(Order[Made]):
    """A training for a number of steps that is known before."""

    @property
    def loop(self) -> Callable[[dict[str, Any]], object]:
        return train_loop

    def put(self, store: Callable[[Any], Any]) -> tuple[Job, int]:
        job, training = self.job, self.job.training
        objective = make_objective(training.objective)
        cut = [item.cut(training.max_tokens) for item in self.items]
        usable = [item for item in cut if any(objective.counts([item]).values())]
        if not usable:
            raise InputError(
                f"{job.output}: none of {len(self.items)} training items has a token after its "
                f"prompt within training.max_tokens {training.max_tokens}; expected at least one"
            )
        return replace(job, items=store(usable)), len(plan_job(usable, job, job.workers.count))

    def heard(self, report: Report) -> tuple[dict[str, float], int, str]:
        figures = {key: report[key] for key in ("loss", "tokens_per_second")}
        return figures, int(report["step"]), ""

    def diverged(self, report: Report, storage: Path) -> tuple[str, str]:
        kept = any(storage.glob("*/checkpoint_*"))
        left = f"The last good state is kept in {storage}" if kept else "No state was kept"
        return f"step {report['step']:.0f} of {report['steps']:.0f}", left


@dataclass(frozen=True)
class AdapterOrder(StepsOrder[Adapter]):
    """An adapter of a side."""

    side: Side

    def made(self) -> Adapter:
        job = self.job
        return Adapter(str(job.output), adapter_digest(job.output), job.base.digest, self.side)


@dataclass(frozen=True)
class ModelOrder(StepsOrder[ModelRef]):
    """A model with all its weights: a checkpoint of its own."""

    def made(self) -> ModelRef:
        return ModelRef(str(self.job.output), checkpoint_digest(self.job.output))
