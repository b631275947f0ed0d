"""What composing, exchanging, searching and training cost, and that composition is exact.

Each part runs in a process of its own and prints its figures; the last line is one JSON object.

    python benchmarks/release.py                    all parts
    python benchmarks/release.py swap composition   some of them
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.silent import Silent  # noqa: E402
from rnr_dist.config.file import load_config  # noqa: E402
from rnr_dist.config.schema import Config  # noqa: E402
from rnr_dist.types import Adapter, ModelRef  # noqa: E402

CANDIDATES = 8
MODULES = ("q_proj", "k_proj", "v_proj", "o_proj")


def settings(*overrides: str) -> Config:
    return load_config(ROOT / "configs" / "demo.yaml", list(overrides))


def adapters(base: ModelRef, folder: Path, ranks: Sequence[int], size: float) -> list[Adapter]:
    """Random LoRAs on the base's attention, deltas of about `size` a weight."""
    import torch

    from rnr_dist.weights.composition import checkpoint_shapes, save_adapter

    torch.manual_seed(0)
    shapes = {
        module: shape
        for module, shape in checkpoint_shapes(base.checkpoint).items()
        if module.endswith(MODULES)
    }
    made = []
    for number, rank in enumerate(ranks):
        factors = {
            module: (torch.randn(rank, columns) * size, torch.randn(out, rank) / rank**0.5)
            for module, (out, columns) in shapes.items()
        }
        made.append(
            save_adapter(
                folder / f"adapter-{number}",
                factors,
                alpha=rank,
                base=base.checkpoint,
                trained_on=base.digest,
                side="retain" if number % 2 else "forget",
            )
        )
    return made


def swap() -> dict[str, float]:
    """Starting an engine against exchanging its weights for a candidate's."""
    import ray

    from rnr_dist.bench import Bench
    from rnr_dist.generate.cluster_pool import generator_pool

    config = settings("engines.count=1")
    with tempfile.TemporaryDirectory() as name, Bench(config) as bench:
        base, _ = bench.base, bench.ray
        [adapter] = adapters(base, Path(name), [8], 1e-4)
        began = time.perf_counter()
        with generator_pool(config, base) as pool:
            start = time.perf_counter() - began
            [generator] = pool.generators
            seconds = []
            for weight in (0.5, 1.0, 1.5, 2.0, 2.5):
                began = time.perf_counter()
                ray.get(generator.load.remote(base.plus(-weight, adapter)))
                seconds.append(time.perf_counter() - began)
    swapped = sorted(seconds)[len(seconds) // 2]
    return {"start_seconds": start, "swap_seconds": swapped, "swap_speedup": start / swapped}


def search() -> dict[str, float]:
    """A search of eight candidates against its generation and perplexity alone.

    A small probe: what a search costs beside its requests does not grow with it.
    """
    from rnr_dist.bench import Bench
    from rnr_dist.measures.continuations import Asked, settings_of
    from rnr_dist.measures.perplexity import windows
    from rnr_dist.release.choice import choose
    from rnr_dist.release.reader import Reader
    from rnr_dist.release.rules import MergeStep
    from rnr_dist.tasks.task import make_task
    from rnr_dist.types import Split

    small = ["task.challenging.limit={search: 12}", "perplexity.max_windows=8"]
    config = settings("release.reread=0", *small)
    sampling = config.release.search
    task: Any = make_task(config)
    with tempfile.TemporaryDirectory() as name, Bench(config, task.oracle) as bench:
        base, endpoint = bench.base, bench.endpoint
        reader = Reader(bench, task, Path(name) / "readings")
        [adapter] = adapters(base, Path(name), [8], 1e-4)
        start = reader.read(base)  # warms up, and is what candidates are compared with
        asked = Asked.bare(task.name, task.contexts(Split.SEARCH, "forget"))
        requests: list[Any] = list(asked.requests(bench.tokenizer, settings_of(sampling)))
        for passages in task.passages(Split.SEARCH).values():
            requests += windows(passages, bench.tokenizer, config.perplexity)
        began = time.perf_counter()
        endpoint.run(base, CANDIDATES * requests)
        alone = time.perf_counter() - began
        models = {str(n): base.plus(-0.1 * n, adapter) for n in range(1, CANDIDATES + 1)}
        step = MergeStep(task.measures, "subtract", start, start, start)
        began = time.perf_counter()
        choose(reader, "search", step, models)
        whole = time.perf_counter() - began
    return {"search_seconds": whole, "alone_seconds": alone, "search_overhead": whole / alone}


def composition() -> dict[str, float]:
    """Three iterations of mixed ranks: stacked adapter, dense merge and PEFT's `cat` in fp32."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from rnr_dist.weights.checkpoints import resolve_model
    from rnr_dist.weights.composition import add_to_model
    from rnr_dist.weights.export import Card, export_adapter

    base = resolve_model(settings().model)
    weights = (-2.0, 0.7, -0.3, 0.5, -0.2, 0.9, -0.1)

    def loaded() -> Any:
        return AutoModelForCausalLM.from_pretrained(base.checkpoint, dtype=torch.float32).eval()

    with tempfile.TemporaryDirectory() as name, torch.inference_mode():
        folder = Path(name)
        made = adapters(base, folder, (8, 4, 16, 8, 2, 4, 6), 1e-3)
        composed = base
        for weight, adapter in zip(weights, made, strict=True):
            composed = composed.plus(weight, adapter)
        inputs = AutoTokenizer.from_pretrained(base.checkpoint)(
            "The river rises in the hills and runs through three towns before it",
            return_tensors="pt",
        )
        before = loaded()(**inputs).logits
        dense = loaded()
        add_to_model(dense, composed.terms)
        logits = {"dense": dense(**inputs).logits}
        export_adapter(composed, folder / "stacked", Card("nothing", "a benchmark"))
        logits["stacked"] = PeftModel.from_pretrained(loaded(), folder / "stacked")(**inputs).logits
        cat = PeftModel.from_pretrained(loaded(), made[0].path, adapter_name="0")
        for number, adapter in enumerate(made[1:], 1):
            cat.load_adapter(adapter.path, adapter_name=str(number))
        names = [str(number) for number in range(len(made))]
        # PEFT takes the root of a weight for both factors: a negative one goes into lora_B here.
        for number, weight in enumerate(weights):
            if weight < 0:
                for module in cat.modules():
                    if hasattr(module, "lora_B") and str(number) in module.lora_B:
                        module.lora_B[str(number)].weight.neg_()
        cat.add_weighted_adapter(names, [abs(w) for w in weights], "cat", combination_type="cat")
        cat.set_adapter("cat")
        logits["cat"] = cat(**inputs).logits
    pairs = [("dense", "stacked"), ("dense", "cat"), ("stacked", "cat")]
    errors = [float((logits[a] - logits[b]).abs().max()) for a, b in pairs]
    return {
        "composition_error": max(errors),
        "composition_effect": float((logits["dense"] - before).abs().max()),
    }


def throughput() -> dict[str, float]:
    """The training worker against a bare PyTorch loop of the same model, batch and dtype."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from rnr_dist.bench import Bench
    from rnr_dist.data.sources import load_passages
    from rnr_dist.run.directory import read_json
    from rnr_dist.run.precision import compute_dtype
    from rnr_dist.train.collate import Batching, Example, pad, padded_tokens, plan_steps, texts
    from rnr_dist.train.job import SUMMARY
    from rnr_dist.train.trainings import Trainings

    config = settings()
    training = config.release.retain.model_copy(update={"epochs": 1})
    with tempfile.TemporaryDirectory() as name, Bench(config) as bench:
        base = bench.base
        tokenizer = AutoTokenizer.from_pretrained(base.checkpoint)
        passages = load_passages(config.task.in_domain[0])
        items = [
            item.cut(training.max_tokens)
            for item in texts(Example(tuple(tokenizer.encode(p.text)), 0) for p in passages)
        ][:96]
        trainings = Trainings(bench, Path(name), Silent())
        adapter = trainings.adapter("a", items, training, "retain", base)
        worker = read_json(Path(adapter.path) / SUMMARY)["tokens_per_second"]
    torch.set_num_threads(config.workers.cpus_each)
    dtype = getattr(torch, compute_dtype(config.workers.dtype, on_gpu=False))
    model = AutoModelForCausalLM.from_pretrained(base.checkpoint, dtype=dtype)
    lora = LoraConfig(
        r=training.rank, lora_alpha=training.alpha, target_modules=training.target_modules
    )
    model = get_peft_model(model, lora).train()
    trained = [value for value in model.parameters() if value.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=training.learning_rate)
    plan = plan_steps(
        [item.length for item in items],
        Batching(training.batch_size, training.micro_batch_tokens, 1, 0),
        1,
        lambda part: padded_tokens(items[index] for index in part),
    )
    began, tokens = time.perf_counter(), 0
    for step in plan:
        for micro_batch in step.micro_batches[0]:
            batch = pad([items[index]["text"][0] for index in micro_batch])
            share = len(micro_batch) / len(step.indices)
            (model(**batch).loss * share).backward()
            tokens += sum(items[index].length for index in micro_batch)
        if training.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(trained, training.clip_norm)
        optimiser.step()
        optimiser.zero_grad()
    bare = tokens / (time.perf_counter() - began)
    return {
        "worker_tokens_per_second": worker,
        "bare_tokens_per_second": bare,
        "worker_throughput": worker / bare,
    }


def exports() -> dict[str, float]:
    """vLLM with the exported adapter and with the merged export: shares of equal greedy tokens."""
    from vllm import LLM, SamplingParams
    from vllm.lora.request import LoRARequest

    from rnr_dist.weights.checkpoints import resolve_model
    from rnr_dist.weights.export import Card, export_adapter, export_merged

    base = resolve_model(settings().model)
    prompts = [f"{opening} the" for opening in ("In the morning", "Under", "Most of", "After")]
    greedy = SamplingParams(temperature=0, max_tokens=16)
    shared: dict[str, Any] = {
        "dtype": "float32",
        "max_model_len": 256,
        "enforce_eager": True,
        "kv_cache_memory_bytes": 2**28,
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # A checkpoint in fp32, so that the merged weights are not rounded to bf16.
        wide = replace(base, checkpoint=str(widened(base, folder / "base")))
        [adapter] = adapters(wide, folder, [8], 1e-3)
        composed = wide.plus(-0.7, adapter)
        card = Card("nothing", "a benchmark")
        export_merged(composed, folder / "merged", card)
        export_adapter(composed, folder / "adapter", card)
        merged = LLM(model=str(folder / "merged"), **shared)
        one = [output.outputs[0].token_ids for output in merged.generate(prompts, greedy)]
        del merged
        adapted = LLM(model=wide.checkpoint, enable_lora=True, max_lora_rank=8, **shared)
        request = LoRARequest("exported", 1, str(folder / "adapter"))
        other = [
            output.outputs[0].token_ids
            for output in adapted.generate(prompts, greedy, lora_request=request)
        ]
    equal = sum(list(a) == list(b) for a, b in zip(one, other, strict=True))
    return {"exports_equal_share": equal / len(prompts)}


def widened(base: ModelRef, folder: Path) -> Path:
    """The checkpoint in fp32, with its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(base.checkpoint, dtype=torch.float32)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(base.checkpoint).save_pretrained(folder)
    return folder


PARTS = {part.__name__: part for part in (swap, search, composition, exports, throughput)}


def main() -> None:
    if sys.argv[1:2] == ["--part"]:
        print(json.dumps(PARTS[sys.argv[2]]()))
        return
    figures: dict[str, float] = {}
    for name in sys.argv[1:] or PARTS:
        command = [sys.executable, __file__, "--part", name]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        # vLLM's processes print on as they end.
        lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
        found = json.loads(lines[-1])
        print(name, json.dumps(found), flush=True)
        figures |= found
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
