"""Start a training by epochs from the driver: memorising, ICU, or a method beside it.

In: sequences, items, a method's training, limits. Out: an `EpochRun`: the model of the best
epoch and a row an epoch. Invariant: done once: what was trained with the same inputs is taken as it
is, and what was interrupted goes on from its last epoch kept.
"""

from __future__ import annotations

import contextlib
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import ray

from rnr_dist.config.icu import IcuConfig
from rnr_dist.config.training import Training
from rnr_dist.errors import InputError
from rnr_dist.icu.forgotten import Counted, Limits
from rnr_dist.icu.worker import EpochJob, epoch_loop
from rnr_dist.run.codec import to_plain
from rnr_dist.run.directory import read, read_json, write
from rnr_dist.run.progress import progress_bar, say
from rnr_dist.train.collate import Example, Item
from rnr_dist.train.launch import run_workers
from rnr_dist.train.objectives import check_items, make_objective
from rnr_dist.train.worker import SUMMARY
from rnr_dist.types import Adapter, ModelRef, TokenSequence, digest
from rnr_dist.weights.checkpoints import checkpoint_digest
from rnr_dist.weights.composition import adapter_digest


class Listener(Protocol):
    """What a training tells how far it is: MLflow's `Tracker`, or a trial of Tune."""

    def nested(
        self, name: str, params: Mapping[str, Any]
    ) -> contextlib.AbstractContextManager[None]: ...

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None: ...


@dataclass(frozen=True)
class EpochRun:
    """The model of the best epoch, which epoch that is, and every epoch's row (0: before)."""

    model: ModelRef
    best: int
    epochs: tuple[dict[str, Any], ...]
    summary: dict[str, Any]


@dataclass(frozen=True)
class ModelNote:
    """A trained model, and the fingerprint of all that it came from."""

    fingerprint: str
    model: ModelRef


@dataclass(frozen=True)
class EpochTrainings:
    """Models and Ray Train's own state go below `folder`; `start` brings Ray up."""

    config: IcuConfig
    folder: Path
    tracker: Listener
    start: Callable[[], object]

    def run(
        self,
        name: str,
        sequences: Sequence[TokenSequence],
        items: Sequence[Item],
        training: Training,
        model: ModelRef,
        limits: Limits,
        until: Literal["forgotten", "memorised"],
        epochs: int,
        scorer: str = "",
        levels: Sequence[Limits] = (),
        retained: Sequence[Example] = (),
    ) -> EpochRun:
        """Train on `items` by epochs and look at `sequences` after each.

        levels: where given, `items[i]` is left out while `sequences[i]` is at or below `levels[i]`
        (IUR). retained: what an objective with the role `retain` takes some of in each epoch.
        Raises InputError where the loss is not finite.
        """
        config = self.config
        members = [
            [[r, [*e.token_ids], e.prompt_tokens, *e.ceilings] for r, e in i.members] for i in items
        ]
        known = [sequence.id for sequence in sequences]
        settings = training.model_dump(mode="json")
        inputs = [members, known, settings, model.digest, to_plain(limits), until, epochs]
        if levels:
            inputs += [to_plain(levels), config.fingerprint("refinement")]
        kept = config.fingerprint("seed", "task")
        t0 = config.task.prefix_tokens
        counted = Counted(t0, t0)
        if until == "forgotten":
            counted = Counted.by(config)
            inputs += [
                asdict(counted),
                config.stopping.curves,
                [[*example.token_ids] for example in retained],
            ]
        fingerprint = digest([inputs, kept, scorer])
        output, note = self.folder / "models" / name, self.folder / "models" / f"{name}.json"
        if not (note.exists() and read(note, ModelNote).fingerprint == fingerprint):
            self.start()
            self._train(
                EpochJob(
                    ray.put([item.cut(training.max_tokens) for item in items]),
                    model,
                    training,
                    config.workers,
                    output.absolute(),
                    config.seed,
                    config.trust_remote_code,
                    sequences=ray.put(list(sequences)),
                    retained=ray.put([text.cut(training.max_tokens) for text in retained]),
                    until=until,
                    limits=limits,
                    levels=tuple(levels),
                    refinement=config.refinement,
                    epochs=epochs,
                    curves=config.stopping.curves,
                    prefix_tokens=t0,
                    counted=counted,
                    n=config.task.n,
                    scorer=scorer,
                    tokenizer=model.checkpoint,
                ),
                name,
                items,
                fingerprint,
            )
            write(note, ModelNote(fingerprint, self._model(output, model, training)))
        summary = read_json(output / SUMMARY)
        model = read(note, ModelNote).model
        return EpochRun(model, summary["best"], tuple(summary["epochs"]), summary)

    def _train(self, job: EpochJob, name: str, items: Sequence[Item], fingerprint: str) -> None:
        check_items(make_objective(job.training.objective), items, str(job.output))
        attempt = digest([fingerprint, job.workers.model_dump(mode="json")])[:8]
        storage = (self.folder / "train" / f"{name}-{attempt}").absolute()
        last: dict[str, float] = {}
        say(f"{name}: {len(items)} items, at most {job.epochs} epochs")
        with (
            self.tracker.nested(f"train {name}", job.training.model_dump(mode="json")),
            progress_bar(name, job.epochs) as advance,
        ):

            def show(report: dict[str, float]) -> None:
                last.update(report)
                told = {key: value for key, value in report.items() if key not in ("epoch", "step")}
                self.tracker.metrics(
                    {k: v for k, v in told.items() if math.isfinite(v)}, int(report["epoch"])
                )
                if "extraction" in report:
                    note = f"MA {report['memorisation']:.3f}"
                    if math.isfinite(report["extraction"]):
                        note = f"EL {report['extraction']:.3f}, {note}"
                    advance(int(report["epoch"]), note)

            run_workers(epoch_loop, job, storage, show)
        if not math.isfinite(last["loss"]):
            raise InputError(
                f"{job.output}: the loss is {last['loss']} in step {last['step']:.0f}, epoch "
                f"{last['epoch']:.0f}; expected a finite one: lower learning_rate "
                f"{job.training.learning_rate:g}. The best model so far is kept there"
            )
        shutil.rmtree(storage)

    def _model(self, output: Path, base: ModelRef, training: Training) -> ModelRef:
        """The reference of what was saved: a checkpoint of its own, or the base and an adapter."""
        if training.parameters == "full":
            return replace(
                base,
                checkpoint=str(output.absolute()),
                checkpoint_digest=checkpoint_digest(output),
                terms=(),
            )
        path = str(output.absolute())
        adapter = Adapter(path, adapter_digest(output), base.digest, "forget")
        return base.plus(1.0, adapter)
