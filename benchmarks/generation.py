"""Tokens a second: the generator pool against bare vLLM and bare transformers, same requests.

Bare vLLM is one `LLM.generate` call with all cores, once with its own top-p and once with our exact
nucleus mask; the pool has as many one-core engines. Each is timed `ROUNDS` times, alternating would
need all in memory, so they follow one another. Bare transformers is a loop of `generate` over
length-sorted batches with all cores; it and the pool on the transformers backend take turns, with
the same batch and dtype. The last line is one JSON object: `pool_ratio` = pool / the faster of the
two vLLMs, `transformers_share` = transformers pool / its bare loop.

    python benchmarks/generation.py [bare | bare-nucleus | pool | transformers]
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rnr_dist.config.engines import Engines
from rnr_dist.config.file import load_config
from rnr_dist.config.schema import Config
from rnr_dist.data.sources import load_contexts
from rnr_dist.generate.requests import Generate
from rnr_dist.types import SamplingSettings

ROUNDS = 2
CONTEXTS, PER_CONTEXT = 48, 10
SAMPLING = SamplingSettings(n=PER_CONTEXT, max_tokens=20, temperature=1.0, top_p=0.9)
ROOT = Path(__file__).parents[1]


def prompts(config: Config) -> list[str]:
    return [context.text for context in load_contexts(config.task.challenging, "challenging")][
        :CONTEXTS
    ]


def requests_of(config: Config, tokenizer: Any) -> list[Generate]:
    return [Generate(SAMPLING, tuple(tokenizer.encode(prompt))) for prompt in prompts(config)]


def bare(config: Config, own_nucleus: bool) -> float:
    """Best tokens/s of `LLM.generate` in this process."""
    from vllm import LLM, SamplingParams

    from rnr_dist.generate.engine import engine_arguments, sampling_arguments
    from rnr_dist.weights.checkpoints import resolve_model

    arguments = engine_arguments(config.engines, resolve_model(config.model).checkpoint, False)
    del arguments["enable_prompt_embeds"]
    settings = sampling_arguments(SAMPLING, on_gpu=not own_nucleus)
    llm = LLM(**{**arguments, "max_num_seqs": config.engines.max_num_seqs * config.engines.count})
    params = SamplingParams(**settings)
    speeds = []
    for _ in range(ROUNDS + 1):
        began = time.perf_counter()
        outputs = llm.generate(prompts(config), params, use_tqdm=False)
        tokens = sum(len(choice.token_ids) for output in outputs for choice in output.outputs)
        speeds.append(tokens / (time.perf_counter() - began))
    return max(speeds[1:])  # the first round warms up


def pool(config: Config) -> float:
    """Best tokens/s of the pool, driven as the pipeline drives it."""
    from rnr_dist.bench import Bench

    with Bench(config) as bench:
        requests = requests_of(config, bench.tokenizer)
        speeds = []
        for _ in range(ROUNDS + 1):
            began = time.perf_counter()
            responses = bench.endpoint.run(bench.base, requests)
            tokens = sum(len(c.token_ids) for r in responses for c in r.continuations)
            speeds.append(tokens / (time.perf_counter() - began))
    return max(speeds[1:])


def transformers(config: Config) -> list[float]:
    """Best tokens/s of the pool on the transformers backend and of a bare loop, in turn."""
    from rnr_dist.bench import Bench

    engines = config.engines.model_copy(update={"backend": "transformers"})
    speeds: dict[str, list[float]] = {"pool": [], "bare": []}
    with Bench(config.model_copy(update={"engines": engines})) as bench:
        requests = requests_of(config, bench.tokenizer)

        def pooled() -> int:
            responses = bench.endpoint.run(bench.base, requests)
            return sum(len(c.token_ids) for r in responses for c in r.continuations)

        loop = bare_loop(config, bench.base.checkpoint)
        for _ in range(ROUNDS + 1):
            for name, once in (("pool", pooled), ("bare", loop)):
                began = time.perf_counter()
                tokens = once()
                speeds[name].append(tokens / (time.perf_counter() - began))
    return [max(speeds["pool"][1:]), max(speeds["bare"][1:])]


def bare_loop(config: Config, checkpoint: str) -> Callable[[], int]:
    """Generates once for all prompts with `generate`, in this process; returns the tokens."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from rnr_dist.run.precision import compute_dtype

    engines = config.engines
    torch.set_num_threads(engines.count * engines.cpus_each)
    dtype = compute_dtype(engines.dtype, on_gpu=False)
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=getattr(torch, dtype)).eval()
    tokenizer = AutoTokenizer.from_pretrained(checkpoint, padding_side="left")
    ordered = sorted(prompts(config), key=lambda text: len(tokenizer.encode(text)))
    batch = max(1, engines.batch // SAMPLING.n)
    end, filler = tokenizer.eos_token_id, tokenizer.pad_token_id

    def once() -> int:
        tokens = 0
        for first in range(0, len(ordered), batch):
            inputs = tokenizer(ordered[first : first + batch], return_tensors="pt", padding=True)
            with torch.inference_mode():
                output = model.generate(
                    **inputs,
                    do_sample=True,
                    top_p=SAMPLING.top_p,
                    top_k=0,
                    temperature=SAMPLING.temperature,
                    max_new_tokens=SAMPLING.max_tokens,
                    num_return_sequences=SAMPLING.n,
                    pad_token_id=filler,
                )
            for row in output[:, inputs["input_ids"].shape[1] :].tolist():
                tokens += row.index(end) + 1 if end in row else len(row)
        return tokens

    return once


def main() -> None:
    config = load_config(ROOT / "configs" / "demo.yaml")
    kinds = {
        "bare": lambda: bare(config, False),
        "bare-nucleus": lambda: bare(config, True),
        "pool": lambda: pool(config),
        "transformers": lambda: transformers(config),
    }
    if len(sys.argv) > 1:
        print(json.dumps(kinds[sys.argv[1]]()))
        return
    speeds = {}
    for kind in kinds:
        cores = f"0-{config.engines.count * config.engines.cpus_each - 1}"
        environment = {**os.environ, "VLLM_LOGGING_LEVEL": "ERROR"}
        if kind.startswith("bare"):
            environment["VLLM_CPU_OMP_THREADS_BIND"] = cores
        command = [sys.executable, __file__, kind]
        output = subprocess.run(
            command, env=environment, check=True, capture_output=True, text=True
        ).stdout
        found = json.loads(output.strip().splitlines()[-1])
        if kind == "transformers":
            speeds[kind], speeds["bare-transformers"] = found
        else:
            speeds[kind] = found
        print(f"{kind:14s} {speeds[kind]:7.0f} tokens/s")
    engines: Engines = config.engines
    print(
        json.dumps(
            {
                "engines": engines.count,
                **{f"{kind}_tokens_per_second": round(speed) for kind, speed in speeds.items()},
                "pool_ratio": round(
                    speeds["pool"] / max(speeds["bare"], speeds["bare-nucleus"]), 3
                ),
                "pool_ratio_own_top_p": round(speeds["pool"] / speeds["bare"], 3),
                "transformers_share": round(
                    speeds["transformers"] / speeds["bare-transformers"], 3
                ),
            }
        )
    )


if __name__ == "__main__":
    main()
