"""Epochs on Ray Train workers: train on what is left, look at the model, stop by what it recalls.

In: an `EpochJob`. Out: a checkpoint or adapter of the best epoch, and a reading of every epoch.
Invariant: every rank sees the readings of all sequences, so all of them drop the same sequences,
plan the same batches and stop at the same epoch; a worker that was killed goes on from the last
epoch whose state was kept, to the same weights.
"""

from __future__ import annotations

import json
import math
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from rnr_dist.config.icu import Refinement
from rnr_dist.icu.forgotten import (
    Counted,
    EpochReading,
    Limits,
    best_epoch,
    leaving,
    left_by,
    violation,
)
from rnr_dist.icu.items import with_retained
from rnr_dist.run.codec import from_plain
from rnr_dist.run.directory import replacing_folder
from rnr_dist.train.collate import Example, Item, plan_steps
from rnr_dist.train.worker import SUMMARY, Job, accumulate_step, autocast, build_engine
from rnr_dist.types import TokenSequence

NO_LIMITS = Limits(0, 0, 0, 0)
CONTINUATION = Counted(50, 50)
DEFAULT_RULE = Refinement()


@dataclass(frozen=True)
class EpochJob(Job):
    """A training by epochs. Item i is left out while sequence i is forgotten.

    levels: by sequence, at or below which it is (IUR); none: no sequence is ever left out. until:
    `forgotten` ends when both averages are at or below their limits, `memorised` when the mean EL_n
    is at or above `limits.extraction`. counted: what both go over. curves: EL is read
    even where nothing is decided by it. scorer: BERTScore's encoder; "" scores no text. retained:
    examples of which an epoch's items take some, where the objective has the role `retain`.
    """

    sequences: Any = None
    retained: Any = None
    until: Literal["forgotten", "memorised"] = "forgotten"
    limits: Limits = NO_LIMITS
    levels: tuple[Limits, ...] = ()
    refinement: Refinement = DEFAULT_RULE
    epochs: int = 1
    curves: bool = True
    prefix_tokens: int = 50
    counted: Counted = CONTINUATION
    n: int = 10
    scorer: str = ""
    tokenizer: str = ""


@dataclass
class EpochProgress:
    """What a restart needs beside the engine's state."""

    step: int = 0
    epoch: int = 0
    tokens: int = 0
    seconds: float = 0.0
    reading_seconds: float = 0.0
    gone: list[bool] = field(default_factory=list)
    told: list[dict[str, Any]] = field(default_factory=list)


def epoch_loop(config: dict[str, Any]) -> dict[str, Any]:
    """Run `config["job"]`; returns the epochs' rows (also in the output's `training.json`)."""
    job: EpochJob = config["job"]
    import ray
    import torch
    from ray.train import get_context, report

    from rnr_dist.icu.epoch_reading import Look
    from rnr_dist.train.collate import pad
    from rnr_dist.train.objectives import make_objective
    from rnr_dist.train.passes import require_plain_head
    from rnr_dist.train.states import everywhere, restored, saved

    rank = get_context().get_world_rank()
    items: list[Item] = ray.get(job.items)
    sequences: list[TokenSequence] = ray.get(job.sequences)
    objective = make_objective(job.training.objective)
    engine = build_engine(job, objective, 1, rank)
    retained: list[Example] = ray.get(job.retained) if job.retained else []
    _, each = objective.roles.get("retain", (0, 0))
    trained = engine.module.trained
    first = pad([next(example for _, example in items[0].members)])
    require_plain_head(trained.model, {key: v.to(engine.device) for key, v in first.items()})
    with autocast(job):
        trained.remember(
            example for item in items for role in objective.remembered for example in item[role]
        )
        trained.remember(retained if each else ())
    look = Look(job, trained.model, sequences)

    progress = restored(engine, EpochProgress)
    names = sorted(objective.counts([]))
    sums = torch.zeros(len(names), 2, dtype=torch.float64, device=engine.device)
    if not progress.told:
        _read(job, look, progress, {})
        _keep_best(engine, job, progress, rank)
    kept = time.monotonic()
    while not _finished(job, progress):
        began = time.monotonic()
        gone = {at for at, forgotten_now in enumerate(progress.gone) if forgotten_now}
        chosen = [at for at in range(len(items)) if at not in gone]
        sums.zero_()
        seed = job.seed * 1000 + progress.epoch
        now = with_retained(items, chosen, retained, each, seed)
        for step in epoch_steps(job, now, chosen, seed):
            progress.step += 1
            before = sums.clone()
            accumulate_step(engine, objective, now, step, sums, job.seed, progress.step)
            if not everywhere(bool((sums - before).isfinite().all()), engine.device):
                report({"epoch": progress.epoch + 1, "loss": float("nan"), "step": progress.step})
                return {}
            engine.step()
            progress.tokens += sum(now[index].length for index in step.indices)
        progress.epoch += 1
        progress.seconds += time.monotonic() - began
        torch.distributed.all_reduce(sums)
        means = (sums[:, 0] / sums[:, 1].clamp(min=1)).tolist()
        _read(job, look, progress, dict(zip(names, means, strict=True)), len(chosen))
        if not math.isfinite(readings_of(progress.told)[-1].mean_memorisation):
            report({"epoch": progress.epoch, "loss": float("nan"), "step": progress.step})
            return {}
        _keep_best(engine, job, progress, rank)
        old = time.monotonic() - kept >= job.workers.checkpoint_seconds
        if everywhere(old, engine.device) and not _finished(job, progress):
            with saved(engine, progress) as checkpoint:
                report(_told(progress), checkpoint=checkpoint)
            kept = time.monotonic()
        else:
            report(_told(progress))
    if progress.epoch == 0:
        report(_told(progress))
    summary = {
        "epochs": progress.told,
        "best": best_epoch(readings_of(progress.told), job.limits).epoch
        if job.until == "forgotten"
        else progress.epoch,
        "tokens": progress.tokens,
        "seconds": progress.seconds,
        "reading_seconds": progress.reading_seconds,
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    if rank == 0:
        (job.output / SUMMARY).write_text(json.dumps(summary, indent=2) + "\n")
    return summary


def epoch_steps(job: EpochJob, items: Sequence[Item], chosen: Sequence[int], seed: int) -> Any:
    """The epoch's steps over the chosen items, in full batches whatever has left."""
    from ray.train import get_context

    from rnr_dist.train.collate import Step, padded_tokens

    plan = plan_steps(
        [items[index].length for index in chosen],
        job.training.batch_size,
        job.training.micro_batch_tokens,
        get_context().get_world_size(),
        1,
        seed,
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


def readings_of(told: Sequence[dict[str, Any]]) -> list[EpochReading]:
    return [from_plain(EpochReading, row) for row in told]


def _read(
    job: EpochJob, look: Any, progress: EpochProgress, terms: dict[str, float], trained_on: int = 0
) -> None:
    """Add the epoch's row: figures by sequence, what is forgotten from now on, the loss's terms."""
    began = time.monotonic()
    ends = progress.epoch in (0, job.epochs)

    def decides(accuracy: float) -> bool:
        if job.until == "memorised":  # EL is not above MA
            return progress.epoch == job.epochs or accuracy >= job.limits.extraction
        return job.curves or ends or accuracy <= job.limits.memorisation

    before = progress.gone if job.refinement.sticky else []

    def read(wanted: Callable[[float], bool]) -> tuple[EpochReading, list[bool], list[str]]:
        scores, texts = look.at_all(wanted)
        reading, rule = EpochReading(progress.epoch, **scores), job.refinement
        if not job.levels:
            return reading, [False] * len(texts), texts
        gone = leaving(reading, job.levels, job.limits, rule.combine, before, rule.recall)
        return reading, gone, texts

    reading, progress.gone, texts = read(decides)
    if all(progress.gone) and not math.isfinite(reading.mean_extraction):
        # Nothing would be left: EL decides whether that is so.
        reading, progress.gone, texts = read(lambda _: True)
    progress.reading_seconds += time.monotonic() - began
    progress.told.append(
        {
            **vars(reading),
            "terms": terms,
            "trained_on": trained_on,
            "forgotten": list(progress.gone),
            "left_by": left_by(reading, job.levels) if job.levels else {},
            "continuations": texts,
            "violation": violation(reading, job.limits),
            "seconds": progress.seconds,
            "reading_seconds": progress.reading_seconds,
        }
    )


def _finished(job: EpochJob, progress: EpochProgress) -> bool:
    last = progress.told[-1]
    if job.until == "memorised":
        met = float(np.mean(last["extraction"])) >= job.limits.extraction
    else:
        met = last["violation"] == 0 or all(progress.gone)
    return met or progress.epoch >= job.epochs


def _keep_best(engine: Any, job: EpochJob, progress: EpochProgress, rank: int) -> None:
    """Write the model where the last epoch is the best so far (memorising: always)."""
    last = progress.told[-1]["epoch"]
    if job.until == "forgotten":
        if best_epoch(readings_of(progress.told), job.limits).epoch != last:
            return
    elif not _finished(job, progress):
        return
    if rank == 0:
        with replacing_folder(job.output) as aside:
            engine.module.trained.save(aside)


def _told(progress: EpochProgress) -> dict[str, Any]:
    last = progress.told[-1]
    return {
        "epoch": progress.epoch,
        "step": progress.step,
        "loss": float(sum(last["terms"].values())),
        "extraction": float(np.mean(last["extraction"])),
        "memorisation": float(np.mean(last["memorisation"])),
        "forgotten": float(sum(last["forgotten"])),
        "tokens_per_second": progress.tokens / max(progress.seconds, 1e-9),
    }
