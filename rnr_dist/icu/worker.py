"""Epochs on Ray Train workers: train on what is left, read the model, stop by what it recalls.

In: an `EpochJob`. Out: a checkpoint or adapter of the best epoch, and a row of every epoch.
Invariant: every rank sees the readings of all sequences, so all of them drop the same sequences,
plan the same batches and stop at the same epoch; a worker that was killed goes on from the last
epoch whose state was kept, to the same weights.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rnr_dist.icu.epoch_reading import EpochReader
from rnr_dist.icu.job import EpochJob, EpochPlan
from rnr_dist.icu.leaving import (
    EpochReading,
    best_epoch,
    leaving,
    left_by,
    violation,
)
from rnr_dist.run.codec import from_plain
from rnr_dist.run.directory import replacing_folder
from rnr_dist.train.collate import Batching, Example, Item, Step, padded_tokens, plan_steps
from rnr_dist.train.divided import whole
from rnr_dist.train.job import SUMMARY
from rnr_dist.train.materials import with_retained
from rnr_dist.train.worker import Passes, autocast, peak_rss_mib


@dataclass
class EpochProgress:
    """What a restart needs beside the engine's state.

    left: by sequence, whether the next epoch goes without it. rows: one an epoch, 0 before the
    first.
    """

    step: int = 0
    epoch: int = 0
    tokens: int = 0
    seconds: float = 0.0
    reading_seconds: float = 0.0
    left: list[bool] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)


def epoch_loop(config: dict[str, Any]) -> dict[str, Any]:
    """Run `config["job"]`; returns the epochs' rows (also in the output's `training.json`)."""
    from ray.train import report
    from torch.distributed import get_rank

    from rnr_dist.train.states import everywhere, saved

    epochs = Epochs(config["job"])
    job, progress, engine = epochs.job, epochs.progress, epochs.passes.engine
    if not progress.rows:
        epochs.read({}, 0)
        epochs.keep_best()
    kept = time.monotonic()
    while not epochs.finished:
        number = progress.epoch + 1
        if not epochs.train():
            report({"epoch": number, "loss": float("nan"), "step": progress.step})
            return {}
        epochs.keep_best()
        old = time.monotonic() - kept >= job.workers.checkpoint_seconds
        if everywhere(old, engine.device) and not epochs.finished:
            with saved(engine, progress) as checkpoint:
                report(epochs.report(), checkpoint=checkpoint)
            kept = time.monotonic()
        else:
            report(epochs.report())
    if progress.epoch == 0:
        report(epochs.report())
    summary = epochs.summary()
    if get_rank() == 0:
        (job.output / SUMMARY).write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    return summary


class Epochs:
    """One rank's part of a training by epochs."""

    def __init__(self, job: EpochJob):
        import ray

        from rnr_dist.train.states import restored

        self.job = job
        self._items: list[Item] = ray.get(job.items)
        self._plan: EpochPlan = ray.get(job.plan)
        self.passes = Passes(job, 1)
        objective = self.passes.objective
        _, self._each = objective.parts.get("retain", (0, 0))
        trained = self.passes.engine.module.trained
        self._prepare(trained, objective.remembered)
        self._reader = EpochReader(self._plan, trained.model, job.base.checkpoint, autocast(job))
        self.progress = restored(self.passes.engine, EpochProgress)

    def _prepare(self, trained: Any, remembered: Sequence[str]) -> None:
        """theta0 is asked for all that the objective will ask it, before the first step."""
        from rnr_dist.train.collate import pad
        from rnr_dist.train.passes import require_plain_head

        device = self.passes.engine.device
        first = pad([next(example for _, example in self._items[0].members)])
        require_plain_head(trained.model, {key: value.to(device) for key, value in first.items()})
        asked: Iterable[Example] = (
            example for item in self._items for part in remembered for example in item[part]
        )
        with autocast(self.job):
            trained.remember(asked)
            trained.remember(self._plan.retained if self._each else ())

    def train(self) -> bool:
        """One epoch and its reading; False where a loss or the model is no number any more."""
        began, progress = time.monotonic(), self.progress
        # While something is memorised there are more items than sequences, and none leaves.
        gone = {at for at, left in enumerate(progress.left) if left}
        chosen = [at for at in range(len(self._items)) if at not in gone]
        seed = self.job.seed * 1000 + progress.epoch
        items = with_retained(self._items, chosen, self._plan.retained, self._each, seed)
        for step in epoch_steps(self.job, items, chosen, seed):
            progress.step += 1
            if not self.passes.accumulate(items, step, progress.step):
                return False
            self.passes.engine.step()
            progress.tokens += sum(items[index].length for index in step.indices)
        progress.epoch += 1
        progress.seconds += time.monotonic() - began
        self.read(self.passes.means(), len(chosen))
        return math.isfinite(readings_of(progress.rows[-1:])[0].mean_memorisation)

    def read(self, terms: dict[str, float], trained_on: int) -> None:
        """Add the epoch's row: figures by sequence, who has left from now on, the loss's terms."""
        progress, plan = self.progress, self._plan
        ending, rule, levels = plan.ending, plan.leaving.rule, plan.leaving.levels
        began = time.monotonic()
        before = progress.left if rule.sticky else []

        def read(wanted: Callable[[float], bool]) -> tuple[EpochReading, list[bool], list[str]]:
            with whole(self.passes.engine):
                scores, texts = self._reader.read(wanted)
            reading = EpochReading(progress.epoch, **scores)
            if not levels:
                return reading, [False] * len(texts), texts
            left = leaving(reading, levels, ending.limits, rule.combine, before, rule.recall)
            return reading, left, texts

        reading, progress.left, texts = read(self._decides)
        if all(progress.left) and not math.isfinite(reading.mean_extraction):
            # Nothing would be left: EL decides whether that is so.
            reading, progress.left, texts = read(lambda _: True)
        progress.reading_seconds += time.monotonic() - began
        progress.rows.append(
            {
                **vars(reading),
                "terms": terms,
                "trained_on": trained_on,
                "forgotten": list(progress.left),
                "left_by": left_by(reading, levels) if levels else {},
                "continuations": texts,
                "violation": violation(reading, ending.limits),
                "seconds": progress.seconds,
                "reading_seconds": progress.reading_seconds,
            }
        )

    def _decides(self, accuracy: float) -> bool:
        """Whether EL is read at such a mean MA."""
        ending, epoch = self._plan.ending, self.progress.epoch
        if ending.until == "memorised":  # EL is not above MA
            return epoch == ending.epochs or accuracy >= ending.limits.extraction
        ends = epoch in (0, ending.epochs)
        return ending.curves or ends or accuracy <= ending.limits.memorisation

    @property
    def finished(self) -> bool:
        ending, last = self._plan.ending, self.progress.rows[-1]
        if ending.until == "memorised":
            met = float(np.mean(last["extraction"])) >= ending.limits.extraction
        else:
            met = last["violation"] == 0 or all(self.progress.left)
        return met or self.progress.epoch >= ending.epochs

    @property
    def best(self) -> int:
        """The epoch whose model is kept: memorising, the last one."""
        if self._plan.ending.until == "memorised":
            return self.progress.epoch
        return best_epoch(readings_of(self.progress.rows), self._plan.ending.limits).epoch

    def keep_best(self) -> None:
        """Write the model where the last epoch is the best so far (memorising: at the end)."""
        from torch.distributed import get_rank

        memorising = self._plan.ending.until == "memorised"
        if self.best != self.progress.epoch or (memorising and not self.finished):
            return
        with whole(self.passes.engine):
            if get_rank() == 0:
                with replacing_folder(self.job.output) as aside:
                    self.passes.engine.module.trained.save(aside)

    def report(self) -> dict[str, Any]:
        progress = self.progress
        last = progress.rows[-1]
        return {
            "epoch": progress.epoch,
            "step": progress.step,
            "loss": float(sum(last["terms"].values())),
            "extraction": float(np.mean(last["extraction"])),
            "memorisation": float(np.mean(last["memorisation"])),
            "forgotten": float(sum(last["forgotten"])),
            "tokens_per_second": progress.tokens / max(progress.seconds, 1e-9),
        }

    def summary(self) -> dict[str, Any]:
        progress = self.progress
        return {
            "epochs": progress.rows,
            "best": self.best,
            "tokens": progress.tokens,
            "seconds": progress.seconds,
            "reading_seconds": progress.reading_seconds,
            "peak_rss_mib": peak_rss_mib(),
        }


def epoch_steps(
    job: EpochJob, items: Sequence[Item], chosen: Sequence[int], seed: int
) -> list[Step]:
    """The epoch's steps over the chosen items, in full batches whatever has left."""
    from torch.distributed import get_world_size

    plan = plan_steps(
        [items[index].length for index in chosen],
        Batching(job.training.batch_size, job.training.micro_batch_tokens, get_world_size(), seed),
        1,
        lambda part: padded_tokens(items[chosen[place]] for place in part),
    )
    return [
        Step(
            tuple(
                tuple(tuple(chosen[place] for place in micro) for micro in rank)
                for rank in step.micro_batches
            )
        )
        for step in plan
    ]


def readings_of(rows: Sequence[dict[str, Any]]) -> list[EpochReading]:
    return [from_plain(EpochReading, row) for row in rows]
