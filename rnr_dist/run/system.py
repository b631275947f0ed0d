"""What the machine does while a run goes on, for MLflow's page of system metrics.

In: a listener. Out: figures every few seconds. Invariant: a figure that cannot be read is left out,
and nothing of this ends a run; GPUs are asked by `nvidia-smi`, which takes no memory on them.
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import psutil

from rnr_dist.run.meter import resident_gib
from rnr_dist.run.repeated import repeated

SAMPLE_SECONDS = 15.0
ASK_SECONDS = 5.0  # how long nvidia-smi may take
MIB, PERCENT = 2**20, 100.0
GPU_FIELDS = ("index", "memory.used", "memory.total", "utilization.gpu")
Listener = Callable[[Mapping[str, float], int], None]


@contextlib.contextmanager
def watched(listener: Listener, place: Path, seconds: float = SAMPLE_SECONDS) -> Iterator[None]:
    """Within the block `listener` hears figures and their number, from a thread of its own.

    place: on the disk of interest.
    """
    numbers = itertools.count()
    with repeated(lambda: listener(figures(place), next(numbers)), seconds, "system metrics"):
        yield


def figures(place: Path) -> dict[str, float]:
    """Figures of now, by the names that MLflow's pages group as system metrics."""
    memory = psutil.virtual_memory()
    found = {
        "cpu_utilization_percentage": psutil.cpu_percent(),
        "system_memory_usage_megabytes": (memory.total - memory.available) / MIB,
        "system_memory_usage_percentage": memory.percent,
        "run_memory_gib": resident_gib(),
    }
    with contextlib.suppress(OSError):
        found["disk_available_megabytes"] = shutil.disk_usage(place).free / MIB
    return {f"system/{name}": value for name, value in {**found, **gpu_figures()}.items()}


def gpu_figures() -> dict[str, float]:
    """Memory and use of this machine's GPUs; nothing where there is none."""
    command = shutil.which("nvidia-smi")
    if not command:
        return {}
    asked = [command, f"--query-gpu={','.join(GPU_FIELDS)}", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(
            asked, capture_output=True, text=True, check=True, timeout=ASK_SECONDS
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    found: dict[str, float] = {}
    for line in told.splitlines():
        with contextlib.suppress(ValueError):  # "[N/A]", as of a card that is shared out
            number, used, total, busy = (float(word) for word in line.split(","))
            name = f"gpu_{number:.0f}"
            found[f"{name}_memory_usage_megabytes"] = used
            found[f"{name}_memory_usage_percentage"] = PERCENT * used / total
            found[f"{name}_utilization_percentage"] = busy
    return found
