"""Weights that ZeRO-3 divides over the ranks: divided while they are loaded, whole for a while.

In: a job, a module, an engine of DeepSpeed. Out: the composed model; contexts in which weights are
whole. Invariant: entering and leaving a context are collectives, so all ranks do both together;
what a rank does within `whole` is its own affair.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

from rnr_dist.config.training import Workers
from rnr_dist.train.job import Job


def composed(job: Job, dtype: str, config: Mapping[str, Any]) -> Any:
    """The job's base with its terms, in `dtype`. config: what DeepSpeed will be given.

    Under ZeRO-3 each layer is divided as soon as it is made, so no rank ever holds them all: rank 0
    reads the files, which the others only map.
    """
    import deepspeed
    import torch
    from transformers import AutoModelForCausalLM

    from rnr_dist.weights.composition import add_to_model
    from rnr_dist.weights.folders import require_content

    # Where it first meets the ranks, DeepSpeed would compile a shared-memory all-reduce (27 s, g++)
    # that only inference uses.
    deepspeed.ops.__compatible_ops__ = {}
    require_content(job.base)
    # Code that a model brings may not know how to make its buffers anew.
    at_once = job.workers.zero_stage == 3 and not job.trust_remote_code
    with _divided_at_once(config, dtype) if at_once else nullcontext():
        model = AutoModelForCausalLM.from_pretrained(
            job.base.checkpoint,
            dtype=getattr(torch, dtype),
            trust_remote_code=job.trust_remote_code,
            **attention(job.workers),
        )
    if at_once:
        _renew_buffers(model, getattr(torch, dtype))
    add_to_model(model, job.base.terms, gathered)
    return model


def attention(workers: Workers) -> dict[str, str]:
    """What transformers is told of how attention is computed; nothing leaves the choice to it."""
    return {} if workers.attention == "auto" else {"attn_implementation": workers.attention}


@contextmanager
def _divided_at_once(config: Mapping[str, Any], dtype: str) -> Iterator[None]:
    """Within the block transformers divides what it makes.

    Not longer: it would divide every model of this process, such as the encoder of a score.
    """
    from transformers.integrations.deepspeed import HfDeepSpeedConfig, unset_hf_deepspeed_config

    # Weights get the precision of this section, or fp32: not that of the checkpoint.
    held = HfDeepSpeedConfig({**config, "bf16": {"enabled": dtype == "bfloat16"}})
    try:
        yield
    finally:
        unset_hf_deepspeed_config()
        del held


def _renew_buffers(model: Any, dtype: Any) -> None:
    """Buffers in the number formats that they have where nothing is divided.

    DeepSpeed rounds all that is made while it divides, rotary frequencies too, which transformers
    keeps in fp32 since positions would be wrong otherwise: those are computed again.
    """
    import torch

    with torch.device("meta"):
        plain = type(model)._from_config(model.config, dtype=dtype)
    formats = {name: buffer.dtype for name, buffer in plain.named_buffers()}
    for name, module in model.named_modules():
        rounded = False
        for key, buffer in list(module.named_buffers(recurse=False)):
            wanted = formats[f"{name}.{key}" if name else key]
            if buffer.dtype != wanted:
                rounded = True
                persistent = key not in module._non_persistent_buffers_set
                module.register_buffer(key, buffer.to(wanted), persistent=persistent)
        if rounded:
            model._init_weights(module)


@contextmanager
def gathered(module: Any) -> Iterator[None]:
    """Whole weights of a module within the block; a change of them, the same on all ranks, stays.

    All ranks call. Nothing happens where they are not divided.
    """
    weights = [value for value in module.parameters() if hasattr(value, "ds_id")]
    if not weights:
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(weights, modifier_rank=0):
        yield


@contextmanager
def whole(engine: Any) -> Iterator[None]:
    """Whole weights of the engine's model on each rank within the block, and passes that are no
    collectives: ranks may run the model unequally often. Nothing is trained inside.

    All ranks call. DeepSpeed's hooks would divide a layer again after its pass, so they are taken
    off meanwhile, as TRL and OpenRLHF do to generate (DeepSpeed 0.19 has no call for it).
    """
    offload = getattr(engine.optimizer, "parameter_offload", None)
    if offload is None:
        yield
        return
    import deepspeed

    weights = list(engine.module.parameters())
    with deepspeed.zero.GatheredParameters(weights):
        for weight in weights:
            weight.ds_active_sub_modules.clear()
        for hooks in (offload.forward_hooks, offload.backward_hooks):
            for hook in hooks:
                hook.remove()
            hooks.clear()
        try:
            yield
        finally:
            offload._register_deepspeed_module(offload.module)
