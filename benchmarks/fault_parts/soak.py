"""Half an hour of searches on simulated engines, of which something is killed every 20 seconds.

    python -m benchmarks.fault_parts.soak 30        minutes; the last line is one JSON object

One driver, one pool and one cluster; searches of two outer iterations follow each other, and a
bandit lives for one of them. Memory is what is resident of driver, pool and bandit together, as a
median over a span. Invariant: every search must end with each pull once.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import ray

from benchmarks.fault_parts.outcome import ROOT
from benchmarks.reveal_parts.simulated import BASE, SimulatedGenerator, simulated_bench, task_of
from rnr_dist.config.file import load_config
from rnr_dist.generate.cluster_pool import generator_pool
from rnr_dist.reveal.search import Listeners, search
from rnr_dist.reveal.setting import Setting
from rnr_dist.run.directory import write_rows
from rnr_dist.types import Arm, Context, Split

GENERATORS, ARMS, HIDDEN = 4, 1000, 256
PULLS, OUTER = 60, 2  # of a search: 40 to 60 s
KILL_SECONDS, SAMPLE_SECONDS = 20.0, 2.0
BANDITS = 0.2  # share of the kills; a search lets its bandit die three times
EARLY, LATE = (5.0, 10.0), 5.0  # minutes: from when to when, and the last so many
PARTS = ("driver", "pool", "bandit")


@dataclass
class Watched:
    """What was seen of the whole: resident bytes by part and time, kills, searches, losses."""

    began: float = field(default_factory=time.monotonic)
    resident: dict[str, list[tuple[float, int]]] = field(
        default_factory=lambda: {part: [] for part in PARTS}
    )
    killed: list[str] = field(default_factory=list)
    searches: int = 0
    lost: int = 0

    @property
    def minutes(self) -> float:
        return (time.monotonic() - self.began) / 60

    def sample(self) -> None:
        for part, processes in {
            "driver": [psutil.Process()],
            "pool": of_name("ray::PoolActor"),
            "bandit": of_name("ray::BanditActor"),
        }.items():
            with contextlib.suppress(psutil.Error):
                if processes:
                    size = sum(one.memory_info().rss for one in processes)
                    self.resident[part].append((self.minutes, size))

    def median(self, part: str, first: float, last: float) -> float:
        """MiB of a part between two minutes."""
        sizes = [size for at, size in self.resident[part] if first <= at <= last]
        return statistics.median(sizes) / 2**20 if sizes else float("nan")


def of_name(name: str) -> list[psutil.Process]:
    """Processes of this driver's cluster under such a name."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if " ".join(process.cmdline()).startswith(name):
                found.append(process)
    return found


def soak(minutes: float) -> dict[str, Any]:
    """Search until the time is over; figures of the whole."""
    watched, stop = Watched(), threading.Event()
    with cluster():
        settings = {
            **{"engines.count": GENERATORS, "engines.in_flight": 1, "engines.max_restarts": 10_000},
            **{"reveal.outer_iterations": OUTER, "reveal.budget": PULLS, "reveal.arms": ARMS},
            **{"reveal.in_flight": GENERATORS + 2, "reveal.contexts_per_pull": 8},
            **{"reveal.initial": 10, "reveal.recheck": 0, "reveal.min_relevance": 0},
            **{"reveal.training_steps": 100},
        }
        config = load_config(
            ROOT / "configs" / "demo.yaml", [f"{key}={value}" for key, value in settings.items()]
        )
        with generator_pool(config, BASE, SimulatedGenerator) as pool:
            bench = simulated_bench(config, pool)
            threads = [
                threading.Thread(target=target, args=(watched, stop), daemon=True)
                for target in (sampling, killing)
            ]
            for thread in threads:
                thread.start()
            while watched.minutes < minutes:
                one_search(bench, watched)
            stop.set()
            for thread in threads:
                thread.join()
        mine = psutil.Process().children(recursive=True)
    left = [one for one in mine if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
    return figures(watched, left)


@contextlib.contextmanager
def cluster() -> Iterator[None]:
    """Ray on this machine, with slots for the simulated engines."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    ray.init(
        address="local",
        num_cpus=2,
        resources={"rnr_engine": GENERATORS},
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        runtime_env={"env_vars": {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}},
    )
    try:
        yield
    finally:
        ray.shutdown()


def one_search(bench: Any, watched: Watched) -> None:
    """A search in a folder of its own; counts pulls that are missing, twice, or not filled with."""
    folder = Path(tempfile.mkdtemp(prefix="rnr-soak-"))
    try:
        drawn = np.random.default_rng(watched.searches)
        write_rows(folder / "arms.parquet", [Arm(i, (0.0,), f"say {i}") for i in range(ARMS)])
        np.save(folder / "features.npy", drawn.standard_normal((ARMS, HIDDEN), dtype=np.float32))
        contexts = [Context(f"c{i}", f"text {i}", Split.REVEAL, "challenging") for i in range(20)]
        history = search(Setting(bench, task_of(contexts), folder), Listeners())
        ids = [pull.id for pull in history.pulls]
        wanted = PULLS * OUTER
        watched.lost += abs(wanted - len(set(ids))) + len(ids) - len(set(ids))
        watched.lost += OUTER - len(history.fills)
        # What the log says is what the search knows: a line more would be pulled twice on resume.
        logged = [
            json.loads(line)
            for line in (folder / "events.jsonl").read_text(encoding="utf-8").splitlines()
        ]
        watched.lost += abs(sum(one["event"] == "pull" for one in logged) - len(ids))
        watched.searches += 1
        print(
            f"{watched.minutes:.1f} min: {watched.searches} searches, {watched.lost} lost, "
            f"{len(watched.killed)} killed",
            file=sys.stderr,
            flush=True,
        )
    finally:
        shutil.rmtree(folder)


def sampling(watched: Watched, stop: threading.Event) -> None:
    while not stop.wait(SAMPLE_SECONDS):
        watched.sample()


def killing(watched: Watched, stop: threading.Event) -> None:
    """Every so many seconds a generator or the bandit, drawn."""
    drawn = random.Random(0)
    while not stop.wait(KILL_SECONDS):
        bandit = drawn.random() < BANDITS
        name = "ray::BanditActor" if bandit else "ray::SimulatedGenerator"
        found = of_name(name)
        if found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(drawn.choice(found).pid, signal.SIGKILL)
                watched.killed.append(name)


def figures(watched: Watched, left: list[psutil.Process]) -> dict[str, Any]:
    """Growth of each part, of all together, and what was lost."""
    end = watched.minutes
    scale = min(1.0, end / 30)  # a shorter soak compares the same shares of its time
    early = {part: watched.median(part, EARLY[0] * scale, EARLY[1] * scale) for part in PARTS}
    late = {part: watched.median(part, end - LATE * scale, end) for part in PARTS}
    return {
        "soak_minutes": round(end, 1),
        "soak_searches": watched.searches,
        "soak_kills": len(watched.killed),
        "soak_lost": watched.lost + len(left),
        "soak_memory_growth": sum(late.values()) / sum(early.values()) - 1,
        "soak_mib_early": early,
        "soak_mib_late": late,
    }


if __name__ == "__main__":
    print(json.dumps(soak(float(sys.argv[1]) if sys.argv[1:] else 30.0)))
