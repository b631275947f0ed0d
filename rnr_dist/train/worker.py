"""The training loop that Ray Train runs on every worker: a LoRA on a composed model, by DeepSpeed.

In: a `Job`. Out: the adapter's folder, written by rank 0, and a summary. Invariant: the plan gives
the step's valid tokens over all ranks and micro-batches beforehand, so a step's gradient is that
of the mean over them, whatever the number of workers (design decision 7).
"""

from __future__ import annotations

import json
import resource
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rnr_dist.config import Training, Workers
from rnr_dist.precision import compute_dtype
from rnr_dist.run_dir import replacing_folder
from rnr_dist.train.collate import Step, pad, plan_steps
from rnr_dist.train.deepspeed import deepspeed_config, learning_rate_factor
from rnr_dist.types import ModelRef

# Ray Train takes one report a poll and blocks the next: many reports would slow the training.
REPORTS = 20
SUMMARY = "training.json"


@dataclass(frozen=True)
class Job:
    """One adapter training. `examples` is an object reference to a list of `Example`."""

    examples: Any
    base: ModelRef
    training: Training
    workers: Workers
    output: Path
    seed: int
    objective: str = "causal"
    trust_remote_code: bool = False


def train_loop(config: dict[str, Any]) -> dict[str, Any]:
    """Train `config["job"]` and save its adapter in fp32.

    Returns losses (nats a token, one a report), tokens, seconds, tokens_per_second of the loop
    over all workers, and peak_rss_mib of this worker; the adapter's folder holds the same.
    """
    job: Job = config["job"]
    import ray
    import torch
    from ray.train import get_context, report
    from ray.train.torch import get_device

    from rnr_dist.objectives import OBJECTIVES

    rank, world_size = get_context().get_world_rank(), get_context().get_world_size()
    device = get_device()
    examples = ray.get(job.examples)
    objective = OBJECTIVES[job.objective]()
    lengths = [len(example.token_ids) for example in examples]
    plan = plan_job(lengths, job, world_size)
    engine = build_engine(job, objective, len(plan), rank)

    names = sorted(objective.counts(examples))
    sums = torch.zeros(len(names), 2, dtype=torch.float64, device=device)
    losses, tokens, reported, began = [], 0, 0, time.monotonic()
    for number, step in enumerate(plan, 1):
        totals = objective.counts([examples[index] for index in step.indices])
        for micro_batch in step.micro_batches[rank]:
            batch = pad([examples[index] for index in micro_batch])
            terms = engine({key: value.to(device) for key, value in batch.items()})
            # DeepSpeed averages over ranks; times world_size the sum over all of them remains.
            loss = sum(terms[name][0] / totals[name] for name in names) * world_size
            engine.backward(loss, scale_wrt_gas=False)
            for place, name in enumerate(names):
                sums[place, 0] += terms[name][0].detach()
                sums[place, 1] += terms[name][1]
        engine.step()
        tokens += sum(lengths[index] for index in step.indices)
        if number * REPORTS // len(plan) > reported:
            reported = number * REPORTS // len(plan)
            torch.distributed.all_reduce(sums)
            losses.append(float((sums[:, 0] / sums[:, 1]).sum()))
            sums.zero_()
            seconds = time.monotonic() - began
            report(
                {
                    "step": number,
                    "steps": len(plan),
                    "loss": losses[-1],
                    "tokens_per_second": tokens / seconds,
                }
            )
    summary = {
        "losses": losses,
        "tokens": tokens,
        "seconds": seconds,
        "tokens_per_second": tokens / seconds,
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    save_adapter(engine, job, summary, rank)
    return summary


def plan_job(lengths: list[int], job: Job, world_size: int) -> list[Step]:
    """The steps of a job whose examples have these lengths."""
    training = job.training
    return plan_steps(
        lengths,
        training.batch_size,
        training.micro_batch_tokens,
        world_size,
        training.epochs,
        job.seed,
    )


def build_engine(job: Job, objective: Any, steps: int, rank: int) -> Any:
    """A DeepSpeed engine that maps a batch to the objective's terms.

    The base is composed in `workers.dtype`; PEFT keeps the LoRA in fp32 above it.
    """
    import deepspeed
    import torch
    from peft import LoraConfig, get_peft_model
    from torch.optim.lr_scheduler import LambdaLR
    from transformers import AutoModelForCausalLM

    from rnr_dist.release.composition import add_to_model

    class Terms(torch.nn.Module):
        """The objective as a module, since the engine hooks into forward passes."""

        def __init__(self, model: Any):
            super().__init__()
            self.model = model

        def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
            return objective.terms(self.model, batch)

    # DeepSpeed would compile a shared-memory all-reduce here (27 s, g++) that only inference uses.
    deepspeed.ops.__compatible_ops__ = {}
    training = job.training
    dtype = compute_dtype(job.workers.dtype, job.workers.gpus_each > 0)
    model = AutoModelForCausalLM.from_pretrained(
        job.base.checkpoint,
        dtype=getattr(torch, dtype),
        trust_remote_code=job.trust_remote_code,
    )
    add_to_model(model, job.base.terms)
    torch.manual_seed(job.seed)
    model = get_peft_model(
        model,
        LoraConfig(
            r=training.rank,
            lora_alpha=training.alpha,
            lora_dropout=training.dropout,
            target_modules=training.target_modules,
            task_type="CAUSAL_LM",
        ),
    )
    torch.manual_seed(job.seed + rank)  # ranks drop out different units
    engine, *_ = deepspeed.initialize(
        model=Terms(model).train(),
        model_parameters=[value for value in model.parameters() if value.requires_grad],
        lr_scheduler=lambda optimizer: LambdaLR(
            optimizer,
            lambda step: learning_rate_factor(step, steps, training.warmup_share),
        ),
        config=deepspeed_config(job.workers, training),
    )
    return engine


def save_adapter(engine: Any, job: Job, summary: dict[str, Any], rank: int) -> None:
    """Write the LoRA in PEFT's format and the summary beside it: all ranks call, rank 0 writes."""
    import deepspeed

    model = engine.module.model
    trained = [value for value in model.parameters() if value.requires_grad]
    with deepspeed.zero.GatheredParameters(trained, enabled=job.workers.zero_stage == 3):
        if rank == 0:
            with replacing_folder(job.output) as aside:
                # False: "auto" would ask the hub for the checkpoint's vocabulary size.
                model.save_pretrained(aside, save_embedding_layers=False)
                (aside / SUMMARY).write_text(json.dumps(summary, indent=2) + "\n")
