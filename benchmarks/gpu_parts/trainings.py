"""A LoRA's step on an 8B Llama and ICU's full step on a 1.3B GPT-Neo, by the loops of a run.

Weights and tokens are random, so losses say nothing; speed and memory do. Tokens a second leave out
the first step. `share` is of what dense products reach on this device: a token costs 4 operations a
weight where those are frozen (forward, and backward to what is below), 6 where they are trained.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.gpu_parts.place import Place, peak_flops
from rnr_dist.config.training import Training, Workers
from rnr_dist.icu.job import Counted, Ending, EpochJob, EpochPlan
from rnr_dist.icu.leaving import Limits
from rnr_dist.icu.worker import epoch_loop
from rnr_dist.measures.memorisation import Counting
from rnr_dist.methods.icu import Icu
from rnr_dist.train.collate import Example, Item, texts
from rnr_dist.train.job import SUMMARY, Job
from rnr_dist.train.worker import train_loop
from rnr_dist.types import ModelRef, TokenSequence
from rnr_dist.weights.shape import shape_of

STEPS = 6
MEMORY = "memory.json"  # beside a training's summary
GPU_TOKENS = 8192  # of a micro-batch, as GPUs have it by default
NEVER = Limits(0, 0, -1, -1)  # met by nothing, so all epochs are run: a random model recalls 0


def lora(place: Place) -> dict[str, Any]:
    """One step of 16 sequences of 192 tokens on the attention's projections, rank 8."""
    base = place.model("llama3_8b")
    length, count = (24, 4) if place.shrink else (192, 16)
    training = Training(epochs=1, batch_size=count, micro_batch_tokens=GPU_TOKENS)
    drawn = _sequences(base, length, count * STEPS)
    items = texts(Example(ids, 0) for ids in drawn)
    ran = _trained(place, lora_loop, {"items": items}, Job, base, training)
    return _figures(place, base, ran, 4, length * count)


def icu(place: Place) -> dict[str, Any]:
    """A step of 8 targets, each with one pair and three texts that are retained, of 200 tokens."""
    base = place.model("gpt_neo_1b")
    length, count = (24, 4) if place.shrink else (200, 8)
    settings = Icu.settings("epochs")
    assert settings is not None
    training = settings.training.model_copy(
        update={"batch_size": count, "micro_batch_tokens": GPU_TOKENS, "max_tokens": length}
    )
    targets, pairs, retained = (
        _sequences(base, length, number) for number in (count, count, 3 * count)
    )
    items = [
        Item.of(forget=[Example(target, 0)], learn=[Example(pair, 0)])
        for target, pair in zip(targets, pairs, strict=True)
    ]
    sequences = [
        TokenSequence(str(at), "random", ids, "", length // 2) for at, ids in enumerate(targets)
    ]
    ending = Ending("forgotten", NEVER, STEPS, curves=False)
    plan = EpochPlan(
        sequences,
        Counted(Counting(3)),
        ending,
        retained=tuple(Example(ids, 0) for ids in retained),
    )
    ran = _trained(place, icu_loop, {"items": items, "plan": plan}, EpochJob, base, training)
    return _figures(place, base, ran, 6, ran["tokens"] // STEPS)


def lora_loop(config: dict[str, Any]) -> dict[str, Any]:
    """`train_loop`, and the most memory that its device held."""
    return _noted(train_loop(config), config["job"])


def icu_loop(config: dict[str, Any]) -> dict[str, Any]:
    """`epoch_loop`, and the most memory that its device held."""
    return _noted(epoch_loop(config), config["job"])


def _noted(summary: dict[str, Any], job: Job) -> dict[str, Any]:
    import torch

    on_gpu = job.workers.gpus_each > 0
    held = torch.cuda.max_memory_allocated() if on_gpu else summary["peak_rss_mib"] * 2**20
    (job.output / MEMORY).write_text(json.dumps({"gib": held / 2**30}), encoding="utf-8")
    return summary


def _trained(
    place: Place,
    loop: Callable[[dict[str, Any]], object],
    stored: dict[str, Any],
    kind: type[Job],
    base: ModelRef,
    training: Training,
) -> dict[str, Any]:
    """Train on one worker; its summary, with `reports` and `gib`."""
    import ray

    from rnr_dist.train.launch import run_workers

    output = place.folder / f"trained-{training.objective.name}"
    workers = Workers(gpus_each=place.gpus, cpus_each=1 if place.shrink else 8, max_failures=0)
    reports: list[dict[str, float]] = []
    own = not ray.is_initialized()
    if own:
        path = str(Path(__file__).resolve().parents[2])
        ray.init(
            address="local",
            include_dashboard=False,
            log_to_driver=False,
            runtime_env={"env_vars": {"PYTHONPATH": path}},
        )
    try:
        objects = {key: ray.put(value) for key, value in stored.items()}
        job = kind(base=base, training=training, workers=workers, output=output, seed=0, **objects)
        run_workers(loop, job, place.folder / f"state-{output.name}", reports.append)
    finally:
        if own:
            ray.shutdown()
    read = [json.loads((output / name).read_text(encoding="utf-8")) for name in (SUMMARY, MEMORY)]
    return {**read[0], **read[1], "reports": reports}


def _figures(
    place: Place, base: ModelRef, ran: dict[str, Any], operations: int, tokens: int
) -> dict[str, Any]:
    """tokens: of a step. Each report tells the mean speed so far."""
    ends = [
        at * tokens / report["tokens_per_second"] for at, report in enumerate(ran["reports"], 1)
    ]
    rate = tokens * (len(ends) - 1) / (ends[-1] - ends[0])
    peak = peak_flops(place)
    return {
        "steps": len(ends),
        "tokens_a_step": tokens,
        "tokens_per_second": round(rate),
        "share": round(rate * operations * multiplied(base) / peak, 3),
        "peak_tflops": round(peak / 1e12, 2),
        "gib": round(ran["gib"], 2),
    }


def multiplied(base: ModelRef) -> int:
    """Weights that each token is multiplied with: all but an embedding that is no head too."""
    shape = shape_of(base.checkpoint)
    config = json.loads((Path(base.checkpoint) / "config.json").read_text(encoding="utf-8"))
    tied = config.get("tie_word_embeddings", True)
    return shape.parameters - (0 if tied else shape.vocabulary * shape.hidden)


def _sequences(base: ModelRef, length: int, count: int) -> list[tuple[int, ...]]:
    vocabulary, draw = shape_of(base.checkpoint).vocabulary, random.Random(count)
    return [tuple(draw.randrange(2, vocabulary) for _ in range(length)) for _ in range(count)]
