"""The production search over generators that only pretend to generate, in actor processes.

A pull's latency follows from its prompts. The embedder hashes words into 1,024 buckets (scikit-
learn), since two cores cannot run a sentence transformer for 64 generators; pool, bandit, oracle,
Vendi scoring and event log are the product's own.

    python benchmarks/reveal_parts/simulated.py efficiency 64 1000
    python benchmarks/reveal_parts/simulated.py kills 16 300
"""

from __future__ import annotations

import asyncio
import hashlib
import heapq
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import ray

from rnr_dist.config.engines import Engines
from rnr_dist.config.file import load_config
from rnr_dist.config.schema import Config
from rnr_dist.generate.cluster_pool import generator_pool
from rnr_dist.generate.requests import Continuation, Request, Response
from rnr_dist.reveal.history import Fill, History
from rnr_dist.reveal.search import Listeners, search
from rnr_dist.reveal.setting import Setting
from rnr_dist.run.directory import write_rows
from rnr_dist.score.actors import OracleActor, Scorer
from rnr_dist.tasks.prompts import query
from rnr_dist.types import Arm, Context, ModelRef, Split

ROOT = Path(__file__).parents[2]
ARMS, HIDDEN, D, CONTEXTS = 10_000, 576, 1024, 16
WORDS = Path(__file__).read_text(encoding="utf-8").split()
BASE = ModelRef("/simulated", "simulated")


def latency_of(requests: Sequence[Request]) -> float:
    """Seconds that a pull's prompts take a simulated generator: 0.5 to 1.5."""
    return _drawn(requests).uniform(0.5, 1.5)


def said_of(requests: Sequence[Request], model: str) -> list[Response]:
    """What it answers."""
    drawn = _drawn(requests)
    texts = [" ".join(drawn.choices(WORDS, k=20)) for _ in requests]
    return [Response(model, (Continuation((1,) * 20, text, "length"),)) for text in texts]


def _drawn(requests: Sequence[Request]) -> random.Random:
    tokens = getattr(requests[0], "token_ids", ())
    return random.Random(int(hashlib.sha256(repr(tokens).encode()).hexdigest()[:8], 16))


class SimulatedGenerator:
    """Answers one batch at a time, each after a latency that its prompts decide."""

    def __init__(self, engines: Engines, base: ModelRef, index: int, trust: bool = False):
        self._digest = base.digest
        self._lock = asyncio.Lock()
        self._log: list[tuple[float, float]] = []

    async def ready(self) -> list[str]:
        return [self._digest]

    async def load(self, model: ModelRef) -> list[str]:
        self._digest = model.digest
        return [self._digest]

    async def run(self, requests: Sequence[Request], model: str) -> list[Response]:
        async with self._lock:
            latency = latency_of(requests)
            self._log.append((time.time(), latency))
            await asyncio.sleep(latency)
            return said_of(requests, model)

    async def log(self) -> list[tuple[float, float]]:
        return self._log

    async def pid(self) -> int:
        return os.getpid()

    async def shutdown(self) -> None:
        pass


class HashEmbedder:
    """Bags of words of unit length."""

    def __init__(self, dimension: int = D) -> None:
        from sklearn.feature_extraction.text import HashingVectorizer

        self._model = HashingVectorizer(n_features=dimension)

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        return self._model.transform(texts).toarray().astype(np.float32)


def asked(generator: Any, method: str) -> Any:
    """An answer of a generator that may be restarting."""
    for _ in range(120):
        try:
            return ray.get(getattr(generator, method).remote())
        except ray.exceptions.ActorUnavailableError:
            time.sleep(0.5)
    raise RuntimeError("a generator does not come back")


def list_schedule(latencies: Sequence[float], machines: int) -> float:
    """Makespan when each machine takes the next job as it becomes free."""
    free = [0.0] * machines
    for latency in latencies:
        heapq.heapreplace(free, free[0] + latency)
    return max(free)


def prepared(folder: Path, config: Config, forget_rows: int, dimension: int = D) -> None:
    """An arm table, and a forget set that an earlier outer iteration left."""
    drawn = np.random.default_rng(0)
    write_rows(folder / "arms.parquet", [Arm(i, (0.0,), f"say {i}") for i in range(ARMS)])
    features = drawn.standard_normal((ARMS, HIDDEN), dtype=np.float32)
    np.save(folder / "features.npy", features)
    rows = np.abs(drawn.standard_normal((forget_rows, dimension)))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    history = History(folder, config.reveal, dimension)
    history.add_fill(Fill(0, -1, "earlier", 0.5, 0.5, 0.5, forget_rows, 0), [], rows)


def task_of(contexts: list[Context]) -> Any:
    """What a search asks of a task; the forget set answers two contexts."""
    parts = {Split.REVEAL: contexts, Split.TRAIN: contexts[:2]}
    return SimpleNamespace(
        oracle="profanity",
        contexts=lambda split, kind: parts[split],
        prompt=lambda context, instruction, style, tokenizer: query(
            instruction, context.text, style, tokenizer
        ),
    )


def simulated_bench(config: Config, pool: Any, dimension: int = D) -> Any:
    """What a search needs, around a pool of simulated generators: its bench."""
    kept = {"num_cpus": 0}
    scorer = Scorer(
        ray.remote(OracleActor).options(**kept).remote("profanity"),
        ray.remote(HashEmbedder).options(**kept).remote(dimension),
        "profanity",
    )
    tokenizer = SimpleNamespace(
        encode=lambda text, add_special_tokens=True: list(text.encode()),
    )
    return SimpleNamespace(
        config=config, base=BASE, endpoint=pool, scorer=scorer, tokenizer=tokenizer
    )


def run(machines: int, pulls: int, kill_every: float | None) -> dict[str, float]:
    overrides = {
        "engines.count": machines,
        "engines.in_flight": 1,
        "engines.max_restarts": 1000,
        "reveal.outer_iterations": 2,
        "reveal.budget": pulls,
        "reveal.arms": ARMS,
        "reveal.in_flight": machines + max(2, machines // 8),
        "reveal.contexts_per_pull": CONTEXTS,
        "reveal.recheck": 0,
        "reveal.initial": min(40, pulls),
        "reveal.min_relevance": 1,
    }
    settings = [f"{key}={value}" for key, value in overrides.items()]
    config = load_config(ROOT / "configs" / "demo.yaml", settings)
    contexts = [Context(f"c{i}", f"text {i}", Split.REVEAL, "challenging") for i in range(40)]
    resources = {"rnr_engine": machines}
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    ray.init(
        address="local",
        num_cpus=2,
        resources=resources,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        runtime_env={"env_vars": {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}},
    )
    ends: list[float] = []
    killed: list[int] = []
    with (
        tempfile.TemporaryDirectory() as name,
        generator_pool(config, BASE, SimulatedGenerator) as pool,
    ):
        folder = Path(name)
        prepared(folder, config, 2000)
        pids = ray.get([generator.pid.remote() for generator in pool.generators])
        setting = Setting(simulated_bench(config, pool), task_of(contexts), folder)
        stop = threading.Event()

        def kill() -> None:
            drawn = random.Random(0)
            while kill_every and not stop.wait(kill_every):
                generator = drawn.choice(pool.generators)
                try:
                    pid = ray.get(generator.pid.remote(), timeout=2)
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)
                except Exception:
                    continue  # it is restarting

        killer = threading.Thread(target=kill, daemon=True)
        killer.start()
        heard = Listeners(on_pull=lambda number, figures: ends.append(time.time()))
        history = search(setting, heard)
        stop.set()
        killer.join()
        lived = [asked(generator, "pid") for generator in pool.generators]
        log = sorted(entry for g in pool.generators for entry in asked(g, "log"))
        found = [pull for pull in history.pulls if pull.outer == 1]
    ray.shutdown()
    left = [pid for pid in {*pids, *lived} if Path(f"/proc/{pid}").exists()]
    if kill_every:
        ids = [pull.id for pull in found]
        return {
            "lost_pulls": pulls - len(set(ids)),
            "repeated_pulls": len(ids) - len(set(ids)),
            "kills": len(killed),
            "processes_left": len(left),
        }
    log = [entry for entry in log if entry[0] <= ends[-1]][:pulls]
    optimum = list_schedule([latency for _, latency in log], machines)
    taken = ends[-1] - log[0][0]
    return {
        "machines": machines,
        "pulls": len(found),
        "seconds": taken,
        "optimum": optimum,
        "efficiency": optimum / taken,
    }


if __name__ == "__main__":
    kind, machines, pulls = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    print(json.dumps(run(machines, pulls, 5.0 if kind == "kills" else None)))
