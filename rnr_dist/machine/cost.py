"""What a run costs in memory, disk and time, from numbers alone.

In: a model's `Shape`, what a training trains of it, the config's sections. Out: bytes by what they
are for, seconds. Invariant: pure; every formula names its source, every constant what it was read
on. Bytes are those of one worker, or of one GPU of an engine.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from rnr_dist.config.engines import Engines
from rnr_dist.config.training import Training, Workers
from rnr_dist.machine.held import head_parts, held_tokens
from rnr_dist.run.precision import compute_dtype
from rnr_dist.weights.shape import Shape, TrainedPart

GIB = 2**30
# Interpreter, torch, Ray and DeepSpeed of a training worker on a CPU: read on the 135M model.
WORKER_GIB = 0.85
# Of an engine on CPUs, beside weights and cache: two interpreters with torch and vLLM.
ENGINE_GIB = 1.65
# Of each process on a GPU: CUDA's context and its libraries' workspaces.
CONTEXT_GIB = 0.6
# Tokens that a vLLM engine computes together on a GPU, by its default.
BATCHED_TOKENS = 8192
GPU_SHARE = 0.9  # of a GPU's memory that an engine takes which has it for itself
# Products a second that trainings and engines reach, by what was measured (docs/figures.md): LoRA
# on 8B, 8,192 tokens a micro-batch, H200; LoRA and engines of the 135M model, a core in bfloat16.
GPU_TRAINING, CORE_TRAINING, CORE_GENERATING = 3.5e14, 1.1e11, 1.7e11
GPU_BYTES = 3e12  # a second from a GPU's memory
NF4_BYTES = (4 + 0.127) / 8  # of a weight in four bits with its scales
LAYER_SECONDS = 1e-3  # of a layer in a decoding step of a vLLM engine without graphs


@dataclass(frozen=True)
class Memory:
    """Bytes by what they are for."""

    parts: Mapping[str, float]

    @property
    def total(self) -> float:
        return sum(self.parts.values())

    def __str__(self) -> str:
        told = ", ".join(
            f"{name} {size / GIB:.1f}" for name, size in self.parts.items() if size >= 0.05 * GIB
        )
        return f"{self.total / GIB:.1f} GiB ({told})"


def itemsize(dtype: str, on_gpu: bool) -> int:
    """Bytes of a number in `dtype`, a config's."""
    return 4 if compute_dtype(dtype, on_gpu) == "float32" else 2


def training_memory(
    shape: Shape,
    part: TrainedPart,
    training: Training,
    workers: Workers,
    sequences: int = 1,
    looked: bool = False,
) -> Memory:
    """Of one training worker, on its device, at the worst moment of a step.

    sequences: that one item of the objective takes; a micro-batch holds one item at least. looked:
    the model is read between epochs, for which ZeRO-3 makes its weights whole.
    Optimiser and partition: ZeRO (Rajbhandari et al. 2020, arXiv:1910.02054, section 3): Adam holds
    two fp32 numbers a parameter, 8 bytes, over all workers from stage 1 on, where DeepSpeed adds a
    fp32 copy of what is trained; gradients are divided from stage 2 on, weights in stage 3. What is
    offloaded lies in `host_memory`; of weights the embedding and a layer are here then.
    """
    on_gpu, full = workers.gpus_each > 0, training.parameters == "full"
    shape = replace(shape, eager=shape.eager or workers.attention == "eager")
    size, many = itemsize(workers.dtype, on_gpu), workers.count
    over = [many if workers.zero_stage >= stage else 1 for stage in (1, 2, 3)]
    trained = part.parameters
    weights = weight_bytes(shape, part, training, size)
    held, passes = weights / over[2], _passes(shape, part, training, sequences, size)
    if on_gpu and workers.offload == "weights":
        held = min(held, weights / shape.layers + weights / shape.parameters * _embedding(shape))
    if looked and workers.zero_stage == 3:  # while nothing is computed for a step
        held += max(0, weights - sum(passes.values()))
    copies = 2 * shape.parameters if full and size == 2 else 0  # that autocast makes of weights
    optimiser = 0 if on_gpu and workers.offload != "nothing" else _optimiser(part, workers)
    return Memory(
        {
            "process": (CONTEXT_GIB if on_gpu else WORKER_GIB) * GIB,
            "weights": held + copies,
            "gradients": 4 * trained / over[1],
            "optimiser": optimiser,
            **passes,
        }
    )


def host_memory(shape: Shape, part: TrainedPart, training: Training, workers: Workers) -> Memory:
    """Of one worker on a GPU, in its machine's memory: the whole model while it is loaded, which
    ZeRO-3 divides as it comes, or later what is offloaded, with the gradients that its step reads.
    """
    plain = training.model_copy(update={"frozen": "plain"})  # packed once it is here
    weights = weight_bytes(shape, part, plain, itemsize(workers.dtype, True))
    loaded = 0.0 if workers.zero_stage == 3 else weights
    offloaded = 0.0
    if workers.offload != "nothing":
        offloaded = _optimiser(part, workers) + 4 * part.parameters / workers.count
    if workers.offload == "weights":
        offloaded += weights / workers.count
    return Memory(
        {
            "process": WORKER_GIB * GIB,
            "offloaded": offloaded,
            "loading": max(0.0, loaded - offloaded),
        }
    )


def weight_bytes(shape: Shape, part: TrainedPart, training: Training, size: int) -> float:
    """Of all weights: what is trained in fp32, above or instead of what is frozen.

    nf4: four bits and .127 of scales in linear layers (QLoRA, arXiv:2305.14314, section 3); an
    embedding and a head, counted as two, stay as they are, and one layer's matrix is plain again
    while it computes.
    """
    if training.parameters == "full":
        return 4 * part.parameters
    if training.frozen == "plain":
        return size * shape.parameters + 4 * part.parameters
    plain = min(shape.parameters, 2 * _embedding(shape))
    passing = size * shape.inner * shape.hidden
    packed = NF4_BYTES * (shape.parameters - plain)
    return size * plain + packed + passing + 4 * part.parameters


def _optimiser(part: TrainedPart, workers: Workers) -> float:
    divided = workers.zero_stage > 0
    return (8 + 4 * divided) * part.parameters / (workers.count if divided else 1)


def _embedding(shape: Shape) -> int:
    return shape.vocabulary * shape.hidden


def _passes(
    shape: Shape, part: TrainedPart, training: Training, sequences: int, size: int
) -> dict[str, float]:
    """Activations and logits. Recomputed layers keep what they read, and one of them all (Chen et
    al. 2016, arXiv:1604.06174); that one comes when the logits are gone. Those are of a part of the
    labels (`held.head_parts`), and beside theta0's where the losses compare with it."""
    tokens = held_tokens(training, sequences)
    scores = score_bytes(shape, training.max_tokens, size)
    layer = tokens * (layer_bytes(shape, part, training.parameters == "full", size) + scores)
    labels = math.ceil(tokens / head_parts(training, shape.vocabulary))
    heads = 2 if training.objective.head_alone else 1
    logits = heads * labels * logit_bytes(shape.vocabulary, size)
    if training.gradient_checkpointing:
        kept = tokens * size * shape.hidden * shape.layers
        return {"activations": kept + max(0, layer - logits), "logits": logits}
    return {"activations": shape.layers * layer, "logits": logits}


def layer_bytes(shape: Shape, part: TrainedPart, full: bool, size: int) -> float:
    """Bytes a token that the backward pass keeps of one decoder layer.

    Counted as Korthikanti et al. 2022 (arXiv:2205.05198, section 4.1) do, for attention that keeps
    no scores, and with what a frozen layer need not keep: its input. size: bytes of a number in
    products. Norms read fp32; PEFT hands a LoRA an fp32 copy of each input; under autocast each
    trained layer keeps a copy of its own.
    """
    norms = 2 * 4 * shape.hidden
    attention = size * (2 * shape.query + 2 * shape.key_value)
    mlp = size * shape.inner * (3 if shape.gated else 2)
    if full:
        inputs = 3 * shape.hidden + shape.query + (2 if shape.gated else 1) * shape.hidden
        norms += 2 * 4 * shape.hidden
        return norms + attention + mlp + size * (inputs + shape.inner)
    copies = 4 * part.inputs if size == 2 else 4 * min(part.inputs, 2 * shape.hidden)
    return norms + attention + mlp + copies


def score_bytes(shape: Shape, length: int, size: int) -> int:
    """Bytes a token that attention without a fused kernel keeps of one layer: each head's scores of
    a sequence of that length after the softmax, in fp32 and in the number format of products."""
    return shape.eager * shape.heads * length * (4 if size == 4 else 4 + size)


def logit_bytes(vocabulary: int, size: int) -> int:
    """Bytes a label of logits, their fp32 log-softmax and the gradients of both, at the worst
    moment: three fp32 numbers, and one of `size` bytes where that is another."""
    return vocabulary * (12 if size == 4 else 12 + size)


def cache_bytes(shape: Shape, size: int) -> int:
    """Bytes of keys and values that one token of one sequence takes: 2 a layer (Kwon et al. 2023,
    arXiv:2309.06180, section 3)."""
    return 2 * shape.layers * shape.key_value * size


def engine_memory(shape: Shape, engines: Engines) -> Memory:
    """Of one engine; of each of its GPUs where it has several (tensor parallelism divides weights
    and cache). One that has its GPU for itself fills `GPU_SHARE` of it with cache: counted is what
    it cannot do without, a single sequence."""
    on_gpu = engines.gpus_each > 0
    size, parallel = itemsize(engines.dtype, on_gpu), max(1, int(engines.gpus_each))
    whole = engines.gpus_each >= 1
    one = cache_bytes(shape, size) * engines.max_model_len / parallel
    parts = {
        "process": (CONTEXT_GIB if on_gpu else ENGINE_GIB) * GIB,
        "weights": size * shape.parameters / parallel,
        "cache": one if whole else engines.kv_cache_gib * GIB,
    }
    if on_gpu:
        seqs = engines.max_num_seqs
        batched = size * BATCHED_TOKENS * (2 * shape.inner / parallel + 4 * shape.hidden)
        parts["work"] = batched + 3 * 4 * seqs * shape.vocabulary
    return Memory(parts)


def training_seconds(shape: Shape, tokens: float, training: Training, workers: Workers) -> float:
    """Of trained tokens, over all workers.

    A forward pass takes 2 products a parameter and token, a backward pass 4 (Kaplan et al. 2020,
    arXiv:2001.08361, section 2.1), or 2 where weights are frozen and only what they read has a
    gradient; layers that are recomputed take a forward pass more.
    """
    passes = (6 if training.parameters == "full" else 4) + 2 * training.gradient_checkpointing
    rate = GPU_TRAINING if workers.gpus_each else CORE_TRAINING * workers.cpus_each
    if itemsize(workers.dtype, workers.gpus_each > 0) == 4:
        rate /= 4
    return passes * shape.parameters * tokens / (rate * workers.count)


def generating_seconds(shape: Shape, tokens: float, engines: Engines) -> float:
    """Of generated tokens, over all engines that are kept busy.

    A core is bound by products, a GPU's decoding step by reading the weights once and by starting
    its layers.
    """
    size = itemsize(engines.dtype, engines.gpus_each > 0)
    if not engines.gpus_each:
        rate = CORE_GENERATING * engines.cpus_each * (1 if size == 2 else 0.6)
        return 2 * shape.parameters * tokens / (rate * engines.count)
    parallel = max(1, int(engines.gpus_each))
    step = LAYER_SECONDS * shape.layers + size * shape.parameters / (GPU_BYTES * parallel)
    return tokens / engines.max_num_seqs * step / engines.count
