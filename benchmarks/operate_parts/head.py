"""What the head of a search costs: CPU a pull of driver, pool and bandit, and what that leaves of
an ideal schedule.

Everything is the product's own but generators and embedder: a pull's latency follows from its
prompts, and one host process answers for many generators, each of which is an actor to the pool.
`head_ms_per_pull` is the whole process's CPU between two pulls of the steady search, trainings and
Ray's threads included. `efficiency_256` is of `benchmarks.operate_parts.lanes`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import ray

from benchmarks.fault_parts.soak import of_name
from benchmarks.operate_parts.lanes import WIDTH, simulated
from benchmarks.reveal_parts.simulated import (
    ARMS,
    BASE,
    CONTEXTS,
    latency_of,
    prepared,
    said_of,
    simulated_bench,
    task_of,
)
from rnr_dist.config.file import load_config
from rnr_dist.config.schema import Config
from rnr_dist.generate.cluster_pool import PoolActor, PoolHandle
from rnr_dist.generate.requests import Request, Response
from rnr_dist.reveal.search import Listeners, search
from rnr_dist.reveal.setting import Setting
from rnr_dist.types import Context, ModelRef, Split

ROOT = Path(__file__).resolve().parents[2]
SIZES = (64, 256)
WARM, COUNTED = 200, 800  # pulls before and while CPU is counted
CALIBRATED = 400  # pulls by which a lane's own work is known
ROUNDS = 16  # pulls of each generator in simulated time
PROCESSES = ("driver", "pool", "bandit")


class Host:
    """Answers for many generators, each one batch after the other."""

    def __init__(self, count: int):
        import asyncio

        self._locks = [asyncio.Lock() for _ in range(count)]

    async def ready(self, index: int) -> list[str]:
        return [BASE.digest]

    async def load(self, index: int, model: ModelRef) -> list[str]:
        return [model.digest]

    async def run(self, index: int, requests: Sequence[Request], model: str) -> list[Response]:
        import asyncio

        async with self._locks[index]:
            await asyncio.sleep(latency_of(requests))
            return said_of(requests, model)


class Hosted:
    """One of a host's generators, as `RayLink` calls an actor's methods: `hosted.run.remote()`."""

    def __init__(self, host: Any, index: int):
        self._host, self._index = host, index

    def __getattr__(self, method: str) -> Any:
        if method.startswith("_"):
            raise AttributeError(method)
        return _Method(getattr(self._host, method), self._index)


class _Method:
    def __init__(self, method: Any, index: int):
        self._method, self._index = method, index

    def remote(self, *arguments: Any) -> Any:
        return self._method.remote(self._index, *arguments)


def configured(machines: int, pulls: int) -> Config:
    """The demo's search over `machines` generators, as `benchmarks/reveal.py` has it."""
    settings = {
        **{"engines.count": machines, "engines.in_flight": 1},
        **{"reveal.outer_iterations": 2, "reveal.budget": pulls, "reveal.arms": ARMS},
        **{"reveal.in_flight": machines + max(2, machines // 8)},
        **{"reveal.contexts_per_pull": CONTEXTS, "reveal.recheck": 0, "reveal.initial": 40},
        "reveal.min_relevance": 1,
    }
    return load_config(
        ROOT / "configs" / "demo.yaml", [f"{key}={value}" for key, value in settings.items()]
    )


def contexts() -> list[Context]:
    return [Context(f"c{i}", f"text {i}", Split.REVEAL, "challenging") for i in range(40)]


def processes() -> dict[str, psutil.Process]:
    """Who the head is made of."""
    [pool], [bandit] = of_name("ray::PoolActor"), of_name("ray::BanditActor")
    return {"driver": psutil.Process(), "pool": pool, "bandit": bandit}


def seconds_of(found: dict[str, psutil.Process]) -> dict[str, float]:
    """CPU that each process has used, all its threads together."""
    used = {name: process.cpu_times() for name, process in found.items()}
    return {name: times.user + times.system for name, times in used.items()}


def measured(machines: int, warm: int = WARM, counted: int = COUNTED) -> dict[str, float]:
    """Milliseconds of CPU a pull, by process; Ray runs for this call."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        runtime_env={"env_vars": {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}},
    )
    marks: list[dict[str, float]] = []

    def heard(number: int, figures: dict[str, float]) -> None:
        if number in (warm, warm + counted):
            marks.append(seconds_of(processes()))

    config = configured(machines, warm + counted)
    try:
        host = ray.remote(Host).options(num_cpus=0, max_concurrency=1000).remote(machines)
        hosted = [Hosted(host, index) for index in range(machines)]
        pool = ray.remote(PoolActor).options(num_cpus=0, max_concurrency=1000)
        actor = pool.remote(hosted, config.engines)
        ray.get(actor.start.remote())
        with tempfile.TemporaryDirectory() as name:
            prepared(Path(name), config, 2000, WIDTH)
            bench = simulated_bench(config, PoolHandle(actor), WIDTH)
            search(Setting(bench, task_of(contexts()), Path(name)), Listeners(on_pull=heard))
    finally:
        ray.shutdown()
    first, last = marks
    return {name: 1000 * (last[name] - first[name]) / counted for name in PROCESSES}


def charges_of(real: dict[str, float], config: Config) -> dict[str, float]:
    """By lane, how much more a process takes a pull than its code alone does in simulated time."""
    alone = simulated(config, contexts(), {})
    return {name: max(1.0, real[name] / alone[name]) for name in PROCESSES}


def head(folder: Path) -> dict[str, Any]:
    """The busiest process's milliseconds a pull and the least efficiency, over all sizes.

    `folder` keeps nothing.
    """
    busiest, efficiencies = [], []
    for machines in SIZES:
        command = [sys.executable, "-m", "benchmarks.operate_parts.head", str(machines)]
        ended = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
        real = json.loads(ended.stdout.strip().splitlines()[-1])
        charges = charges_of(real, configured(machines, CALIBRATED))
        found = simulated(configured(machines, ROUNDS * machines), contexts(), charges)
        busiest.append(max(real.values()))
        efficiencies.append(found["efficiency"])
        told = ", ".join(f"{name} {real[name]:.2f}" for name in PROCESSES)
        print(
            f"{machines} generators: CPU a pull in ms: {told}; share of the optimum "
            f"{found['efficiency']:.3f}",
            flush=True,
        )
    return {
        "head_ms_per_pull": round(max(busiest), 2),
        "efficiency_256": round(min(efficiencies), 3),
    }


if __name__ == "__main__":
    print(json.dumps(measured(int(sys.argv[1]), *map(int, sys.argv[2:]))))
