"""Memory of a training worker and of an engine: what they take here against what `rnr check` says.

Each is a Ray worker of its own, on the embedded 135M model and random tokens of real lengths. A
worker's peak is the kernel's (`ru_maxrss`), an engine's the largest sum of its processes' shares.
"""

from __future__ import annotations

import json
import random
import tempfile
import threading
from pathlib import Path
from typing import Any

import psutil
import ray

from rnr_dist.config.engines import Engines
from rnr_dist.config.file import load_config
from rnr_dist.config.schema import Config
from rnr_dist.config.training import Training, Workers
from rnr_dist.generate.actor import Generator
from rnr_dist.generate.cluster_pool import generator_pool
from rnr_dist.generate.requests import Generate
from rnr_dist.machine.cluster import ray_session
from rnr_dist.machine.cost import GIB, engine_memory, training_memory
from rnr_dist.train.collate import Example, texts
from rnr_dist.train.job import SUMMARY, Job
from rnr_dist.train.launch import run_workers
from rnr_dist.train.worker import train_loop
from rnr_dist.types import ModelRef, SamplingSettings
from rnr_dist.weights.checkpoints import resolve_model
from rnr_dist.weights.shape import shape_of, trained_of

ROOT = Path(__file__).parents[2]
LENGTH, STEPS, SAMPLE_SECONDS = 192, 3, 0.2
TRAININGS = {
    "lora": Training(epochs=1, batch_size=8),
    "lora, 1536 tokens": Training(epochs=1, batch_size=8, micro_batch_tokens=1536),
    "full": Training(epochs=1, batch_size=8, parameters="full"),
}


class Watched(Generator):
    """A generator that tells where it runs."""

    async def pid(self) -> int:
        return psutil.Process().pid


def of_training(base: ModelRef, training: Training) -> tuple[float, float]:
    """(measured, estimated) GiB of a worker that does three steps."""
    draw = random.Random(0)
    shape = shape_of(base.checkpoint)
    ids = [
        tuple(draw.randrange(shape.vocabulary) for _ in range(LENGTH))
        for _ in range(STEPS * training.batch_size)
    ]
    with tempfile.TemporaryDirectory() as folder:
        output, workers = Path(folder) / "made", Workers()
        items = ray.put(texts(Example(one, 0) for one in ids))
        job = Job(items, base, training, workers, output, 0)
        run_workers(train_loop, job, Path(folder) / "state", lambda report: None)
        measured = json.loads((output / SUMMARY).read_text(encoding="utf-8"))["peak_rss_mib"]
    said = training_memory(shape, trained_of(base.checkpoint, training), training, workers)
    return measured / 1024, said.total / GIB


def of_engine(base: ModelRef, config: Config) -> tuple[float, float]:
    """(measured, estimated) GiB of an engine that answers more than it can hold at once."""
    draw, engines = random.Random(0), config.engines
    sampling = SamplingSettings(n=4, max_tokens=32, temperature=1.0, top_p=0.9)
    requests = [
        Generate(sampling, tuple(draw.randrange(40_000) for _ in range(48))) for _ in range(64)
    ]
    peak, ended = [0.0], threading.Event()
    with generator_pool(config, base, Watched) as pool:
        own = psutil.Process(ray.get(pool.generators[0].pid.remote()))

        def watch() -> None:
            while not ended.wait(SAMPLE_SECONDS):
                peak[0] = max(peak[0], held_by(own))

        watcher = threading.Thread(target=watch)
        watcher.start()
        pool.run(base, requests)
        ended.set()
        watcher.join()
    return peak[0], engine_memory(shape_of(base.checkpoint), engines).total / GIB


def held_by(process: psutil.Process) -> float:
    """GiB of a process and its descendants; what they share counts once."""
    family = [process, *process.children(recursive=True)]
    return sum(one.memory_full_info().pss for one in family) / GIB


def measure(folder: Path) -> dict[str, Any]:
    """`memory_estimate_error`: the largest gap, as a share of what was measured. Keeps no rows."""
    base = resolve_model("embedded:smollm2-135m-instruct")
    config = load_config(ROOT / "configs" / "demo.yaml")
    one = config.model_copy(update={"engines": Engines(count=1, kv_cache_gib=0.5)})
    found = {}
    with ray_session(one):
        found["engine"] = of_engine(base, one)
        for name, training in TRAININGS.items():
            found[name] = of_training(base, training)
    for name, (measured, said) in found.items():
        print(f"{name:20s} measured {measured:5.2f} GiB, estimated {said:5.2f} GiB")
    gaps = [abs(said - measured) / measured for measured, said in found.values()]
    return {"memory_estimate_error": round(max(gaps), 3)}
