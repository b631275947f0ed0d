"""The DeepSpeed config and the learning-rate curve of an adapter training; pure values.

In: the config's `workers` and a `training` section. Out: what `deepspeed.initialize` is given.
Invariant: no precision section. The frozen weights come in their own dtype, the LoRA in fp32, and
either DeepSpeed section would cast the LoRA to bf16 (`torch_autocast` only adds casts).
"""

from __future__ import annotations

import math
from typing import Any

from rnr_dist.config.training import Training, Workers

# Numbers that are reduced, or gathered, at once. DeepSpeed holds a buffer for as many, on each GPU;
# its own 500 million are 2 GB, for a LoRA that has a few millions.
BUCKET = 50_000_000
# DeepSpeed's sections of what `workers.offload` keeps in the machine's memory.
OFFLOADED = {
    "nothing": (),
    "optimiser": ("offload_optimizer",),
    "weights": ("offload_optimizer", "offload_param"),
}


def deepspeed_config(workers: Workers, training: Training) -> dict[str, Any]:
    """DeepSpeed's config for CPU and GPU workers alike.

    torch's AdamW, because a LoRA's update is small and DeepSpeed's own optimisers are compiled on
    the node that trains; it steps on the machine's cores where its states lie in the machine's
    memory. Accumulation is ours: a step has as many micro-batches, of as many sequences, as the
    plan says; DeepSpeed's 1 stands for no number.
    """
    memory = {"device": "cpu", "pin_memory": workers.gpus_each > 0}
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,
        "gradient_clipping": 0.0 if training.clip_norm is None else training.clip_norm,  # 0: off
        "optimizer": {
            "type": "AdamW",
            "params": {
                "lr": training.learning_rate,
                "weight_decay": training.weight_decay,
                "betas": list(training.betas),
                "torch_adam": True,
                "fused": True,  # one pass over the weights: half the time of a step on CPUs
            },
        },
        "zero_optimization": {
            "stage": workers.zero_stage,
            "overlap_comm": False,
            "reduce_bucket_size": BUCKET,
            "allgather_bucket_size": BUCKET,
            **{part: memory for part in OFFLOADED[workers.offload]},
        },
    }


def environment(workers: Workers) -> dict[str, str]:
    """Variables that a training worker's process is started with.

    DeepSpeed would take any GPU that it sees. OpenMP's threads spin at every barrier: without end,
    a training is many times slower where anything else needs their cores; not at all, it loses a
    third where nothing does. A short spin costs little either way (docs/LOG.md).
    """
    threads = {"OMP_NUM_THREADS": str(workers.cpus_each), "GOMP_SPINCOUNT": "5000"}
    # A worker on a GPU holds no core of Ray's, which would leave it one thread to load and compose.
    return threads if workers.gpus_each else {"DS_ACCELERATOR": "cpu", **threads}


def learning_rate_factor(step: int, steps: int, warmup_share: float) -> float:
    """Share of the peak rate at step 0..steps-1: a linear rise, then a linear fall, never 0.

    The scheduler also asks for the rate after the last step, which is 0. (DeepSpeed's own
    WarmupDecayLR spends its first step at rate 0.)
    """
    rising = math.ceil(warmup_share * steps)
    if step < rising:
        return (step + 1) / rising
    return (steps - step) / max(1, steps - rising)
