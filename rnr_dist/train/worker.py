"""The training loop that Ray Train runs on every worker: an adapter on a composed model.

In: a `Job`. Out: the adapter's folder, written by rank 0, and a summary. Invariant: the plan gives
what each loss term counts over all ranks and micro-batches of a step beforehand, so its gradient is
that of the mean over them, whatever the number of workers.
"""

from __future__ import annotations

import json
import math
import os
import resource
import time
from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from rnr_dist.config.training import Workers
from rnr_dist.run.directory import replacing_folder
from rnr_dist.run.precision import compute_dtype
from rnr_dist.train.collate import Batching, Item, Step, collate, padded_tokens, plan_steps
from rnr_dist.train.deepspeed import deepspeed_config, learning_rate_factor
from rnr_dist.train.divided import composed
from rnr_dist.train.job import SUMMARY, Job
from rnr_dist.train.objectives import Objective, make_objective
from rnr_dist.train.quantised import quantise

# Ray Train takes one report a poll and blocks the next: many reports would slow the training.
REPORTS = 20


def train_loop(config: dict[str, Any]) -> dict[str, Any]:
    """Train `config["job"]` and save its adapter in fp32.

    Returns losses (the sum of the objective's terms, one a report), tokens, seconds,
    tokens_per_second of the loop over all workers, and peak_rss_mib of this worker; the adapter's
    folder holds the same. A loss that is not finite ends the training before it is learnt from:
    the last report tells it and no adapter is written.
    """
    job: Job = config["job"]
    import ray
    from ray.train import get_context, report

    from rnr_dist.train.states import Progress, due, everywhere, restored, saved

    items = ray.get(job.items)
    plan = plan_job(items, job, get_context().get_world_size())
    passes = Passes(job, len(plan))
    engine = passes.engine

    progress = restored(engine, Progress)
    kept = time.monotonic()
    began = kept - progress.seconds
    for number, step in enumerate(plan[progress.step :], progress.step + 1):
        diverged = not passes.accumulate(items, step, number)
        if not diverged:
            engine.step()
            progress.step = number
            progress.tokens += sum(items[index].length for index in step.indices)
        old = time.monotonic() - kept >= job.workers.checkpoint_seconds
        keeps = number < len(plan) and everywhere(old, engine.device)
        if diverged or keeps or due(number, len(plan), REPORTS):
            progress.losses.append(sum(passes.means().values()))
            progress.seconds = time.monotonic() - began
            now = {
                "step": number,
                "steps": len(plan),
                "loss": progress.losses[-1],
                "tokens_per_second": progress.tokens / progress.seconds,
            }
            if keeps or diverged:  # the step that diverged was not learnt from
                with saved(engine, progress) as checkpoint:
                    report(now, checkpoint=checkpoint)
                kept = time.monotonic()
            else:
                report(now)
        if diverged:  # the driver says so; another attempt would end here as well
            return {}
    summary = {
        "losses": progress.losses,
        "tokens": progress.tokens,
        "seconds": progress.seconds,
        "tokens_per_second": progress.tokens / progress.seconds,
        "peak_rss_mib": peak_rss_mib(),
    }
    save_trained(engine, job, summary)
    return summary


class Passes:
    """This rank's forward and backward passes, and what each term has added up to."""

    def __init__(self, job: Job, steps: int):
        import torch

        self._seed = job.seed
        self.objective = make_objective(job.training.objective)
        self.engine = build_engine(job, self.objective, steps)
        self._names = sorted(self.objective.counts([]))
        # (terms, 2): numerators and denominators, by name.
        shape = len(self._names), 2
        self._sums = torch.zeros(shape, dtype=torch.float64, device=self.engine.device)

    def accumulate(self, items: Sequence[Item], step: Step, number: int) -> bool:
        """The gradients of a step, not yet learnt from; whether its terms are finite on all ranks.

        All ranks call. number: of the step; what it drops out follows from that, so a restart
        repeats it.
        """
        import torch
        from torch.distributed import get_rank, get_world_size

        from rnr_dist.train.states import everywhere

        engine, rank, world_size = self.engine, get_rank(), get_world_size()
        before = self._sums.clone()
        torch.manual_seed(self._seed + rank + world_size * number)
        totals = self.objective.counts([items[index] for index in step.indices])
        for micro_batch in step.micro_batches[rank]:
            batch = collate([items[index] for index in micro_batch], self.objective.parts)
            terms = engine(
                {
                    part: {key: value.to(engine.device) for key, value in rows.items()}
                    for part, rows in batch.items()
                }
            )
            # DeepSpeed averages over ranks; times world_size the sum over all of them remains.
            # A term that counts nothing in this step is 0 on every rank.
            loss = sum(terms[name][0] / max(totals[name], 1) for name in totals) * world_size
            engine.backward(loss, scale_wrt_gas=False)
            for place, name in enumerate(self._names):
                self._sums[place, 0] += terms[name][0].detach()
                self._sums[place, 1] += terms[name][1]
        return everywhere(bool((self._sums - before).isfinite().all()), engine.device)

    def means(self) -> dict[str, float]:
        """Each term's mean since they were last asked for, over all ranks; all ranks call."""
        import torch

        torch.distributed.all_reduce(self._sums)
        means = (self._sums[:, 0] / self._sums[:, 1].clamp(min=1)).tolist()
        self._sums.zero_()
        return dict(zip(self._names, means, strict=True))


def peak_rss_mib() -> float:
    """The most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def plan_job(items: Sequence[Item], job: Job, world_size: int) -> list[Step]:
    """The steps of a job that trains on these items, for its epochs or its trained tokens."""
    training = job.training
    lengths = [item.length for item in items]
    epochs = training.epochs
    if training.tokens:
        epochs = math.ceil(training.tokens / max(1, sum(lengths)))
    plan = plan_steps(
        lengths,
        Batching(training.batch_size, training.micro_batch_tokens, world_size, job.seed),
        epochs,
        lambda part: padded_tokens(items[index] for index in part),
    )
    if not training.tokens:
        return plan
    reached = list(accumulate(sum(lengths[index] for index in step.indices) for step in plan))
    return plan[: bisect_left(reached, training.tokens) + 1]


def build_engine(job: Job, objective: Objective, steps: int) -> Any:
    """A DeepSpeed engine that maps a batch to the objective's terms.

    The base is composed in `workers.dtype`; what is trained is fp32 above it.
    """
    import deepspeed
    import torch
    from deepspeed.accelerator import get_accelerator
    from torch.optim.lr_scheduler import LambdaLR

    from rnr_dist.train.trainable import Trained, make_trained

    class Terms(torch.nn.Module):
        """The objective as a module, since the engine hooks into forward passes."""

        def __init__(self, trained: Trained):
            super().__init__()
            self.trained = trained
            self.model = trained.model

        def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
            with autocast(job):
                return objective.terms(self.trained, batch)

    agree_on_device(job.workers)
    training = job.training
    dtype = compute_dtype(job.workers.dtype, job.workers.gpus_each > 0)
    if training.parameters == "full":
        dtype = "float32"
    config = deepspeed_config(job.workers, training)
    model = composed(job, dtype, config)
    if training.frozen == "nf4":
        quantise(model, get_accelerator().current_device_name())
    torch.manual_seed(job.seed)
    trained = make_trained(model, training, job.base, job.seed)
    engine, *_ = deepspeed.initialize(
        model=Terms(trained).train(),
        model_parameters=[value for value in trained.model.parameters() if value.requires_grad],
        lr_scheduler=lambda optimizer: LambdaLR(
            optimizer,
            lambda step: (
                1.0
                if training.schedule == "constant"
                else learning_rate_factor(step, steps, training.warmup_share)
            ),
        ),
        config=config,
    )
    if torch.distributed.get_world_size() == 1 and job.workers.zero_stage == 0:
        # All gradients would be copied together for a sum over nobody: a seventh of a step's time.
        engine.enable_backward_allreduce = False
    return engine


def agree_on_device(workers: Workers) -> None:
    """DeepSpeed takes the GPU that LOCAL_RANK numbers, Ray Train the one that it gave this worker:
    they are the same by order alone, so DeepSpeed is told Ray's."""
    if workers.gpus_each:
        from ray.train.torch import get_device

        os.environ["LOCAL_RANK"] = str(get_device().index or 0)


def autocast(job: Job) -> Any:
    """All weights are trained in fp32: where the machine has bfloat16 they compute in it."""
    import contextlib

    import torch

    dtype = compute_dtype(job.workers.dtype, job.workers.gpus_each > 0)
    if job.training.parameters != "full" or dtype == "float32":
        return contextlib.nullcontext()
    return torch.autocast("cuda" if job.workers.gpus_each else "cpu", getattr(torch, dtype))


def save_trained(engine: Any, job: Job, summary: dict[str, Any]) -> None:
    """Write what was trained and the summary beside it: all ranks call, rank 0 writes."""
    import deepspeed
    from torch.distributed import get_rank

    trained = engine.module.trained
    weights = [value for value in trained.model.parameters() if value.requires_grad]
    with deepspeed.zero.GatheredParameters(weights, enabled=job.workers.zero_stage == 3):
        if get_rank() == 0:
            with replacing_folder(job.output) as aside:
                trained.save(aside)
                (aside / SUMMARY).write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
