"""An engine's weights exchanged, `lora` against `reload`, and greedy tokens against a CPU's.

The generator is the actor's own class, in this process. Weights are random and 8B in size, but for
the tokens: those are of the model that comes as a package, in fp32 on both sides.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Sequence
from typing import Any

from benchmarks.gpu_parts.place import Place, Skipped
from benchmarks.release import adapters
from rnr_dist.config.engines import Engines
from rnr_dist.generate.actor import Generator
from rnr_dist.generate.requests import Generate, Response
from rnr_dist.run.extras import lacking
from rnr_dist.types import ModelRef, SamplingSettings
from rnr_dist.weights.checkpoints import resolve_model

EMBEDDED = "embedded:smollm2-135m-instruct"
WEIGHTS = (0.5, 1.0, 1.5, 2.0)  # of the adapter, a model each


def exchange(place: Place) -> dict[str, Any]:
    """Seconds until an engine answers for another model, and tokens a second with it, each way."""
    base = place.model("llama3_8b")
    [adapter] = adapters(base, place.folder / "adapters", [8], 1e-3)
    models = [base.plus(-weight, adapter) for weight in WEIGHTS]
    ways = ["reload"] if place.shrink else ["reload", "lora"]
    found: dict[str, Any] = {way: _exchanged(place, base, models, way) for way in ways}
    if place.shrink:
        found["lora"] = "needs a GPU"
    return found


def _exchanged(
    place: Place, base: ModelRef, models: Sequence[ModelRef], way: str
) -> dict[str, float]:
    new = 8 if place.shrink else 64
    draw = random.Random(0)
    prompts = [tuple(draw.randrange(2, 90) for _ in range(16)) for _ in range(8 * new)]
    sampling = SamplingSettings(1, new, 1.0, 1.0)
    requests = [Generate(sampling, ids) for ids in prompts]

    async def measured() -> dict[str, float]:
        began = time.perf_counter()
        generator = Generator(_engines(place, weights=way), base, 0)
        await generator.ready()
        start = time.perf_counter() - began
        try:
            seconds, rates = [], []
            for model in models:
                began = time.perf_counter()
                await generator.load(model)
                await generator.run(requests[:1], model.digest)
                seconds.append(time.perf_counter() - began)
                began = time.perf_counter()
                said = await generator.run(requests, model.digest)
                rates.append(_tokens(said) / (time.perf_counter() - began))
        finally:
            await generator.shutdown()
        return {
            "start_seconds": round(start, 2),
            "exchange_seconds": round(statistics.median(seconds), 3),
            "tokens_per_second": round(statistics.median(rates)),
        }

    return asyncio.run(measured())


def greedy(place: Place) -> dict[str, Any]:
    """How many prompts the engine continues with the tokens of `generate` on a CPU, in fp32."""
    if not place.shrink and (missing := lacking(["gguf"])):
        raise Skipped(f"found no package {', '.join(missing)}, which the model comes with")
    base = place.model("llama3_8b") if place.shrink else resolve_model(EMBEDDED)
    new, count = (8, 4) if place.shrink else (32, 16)
    draw = random.Random(1)
    prompts = [tuple(draw.randrange(2, 90) for _ in range(12)) for _ in range(count)]
    expected = on_cpu(base, prompts, new)
    sampling = SamplingSettings(1, new, 0.0, 1.0)

    async def answered() -> list[Response]:
        generator = Generator(_engines(place, dtype="float32"), base, 0)
        await generator.ready()
        try:
            return await generator.run([Generate(sampling, ids) for ids in prompts], base.digest)
        finally:
            await generator.shutdown()

    said = [response.continuations[0].token_ids for response in asyncio.run(answered())]
    alike = sum(list(one) == list(other) for one, other in zip(said, expected, strict=True))
    return {"prompts": count, "alike": alike, "tokens": sum(map(len, expected))}


def on_cpu(base: ModelRef, prompts: Sequence[tuple[int, ...]], new: int) -> list[list[int]]:
    """Greedy continuations by transformers itself, up to an end of text."""
    import torch
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(base.checkpoint, dtype=torch.float32)
    end = model.config.eos_token_id
    found = []
    for ids in prompts:
        given = torch.tensor([ids])
        output = model.eval().generate(
            given,
            attention_mask=torch.ones_like(given),
            max_new_tokens=new,
            do_sample=False,
            pad_token_id=end,
        )
        tokens = output[0, len(ids) :].tolist()
        found.append(tokens[: tokens.index(end)] if end in tokens else tokens)
    return found


def _engines(place: Place, **more: Any) -> Engines:
    size = {"max_model_len": 256, "max_num_seqs": 64} if place.shrink else {"max_num_seqs": 1024}
    backend = "transformers" if place.shrink else "auto"
    return Engines(count=1, gpus_each=place.gpus, backend=backend, **size, **more)  # type: ignore[arg-type]


def _tokens(said: Sequence[Response]) -> int:
    return sum(len(one.token_ids) for response in said for one in response.continuations)
