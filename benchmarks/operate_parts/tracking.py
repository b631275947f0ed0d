"""What MLflow costs a run: the time that a real run spends on telling it, as a share of its time.

In: a config, by default the tiny one of `tests/e2e`. Out: `tracking_overhead`. Invariant: the run
is the public command on a folder of its own, so MLflow's first start, its database and the upload
of the model count; nothing is taken off for what went on beside.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "tests" / "e2e" / "tiny.yaml"
# Calls in which a run waits for MLflow, or for what is made for MLflow alone.
SPENT = {
    "rnr_dist.run.tracking": ("Tracker.__init__", "Tracker._record", "Tracker.close"),
    "rnr_dist.report.stage": ("track_result", "_log_model"),
    "rnr_dist.recipes.pipeline": ("_introduce",),
}


class Clock:
    """Seconds spent within the wrapped functions, a nested call once; by the thread that waits."""

    def __init__(self) -> None:
        self.seconds = {"run": 0.0, "beside": 0.0}
        self._within = threading.local()
        self._lock = threading.Lock()

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **named: Any) -> Any:
            with self.running():
                return function(*arguments, **named)

        return wrapped

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        outermost = not getattr(self._within, "now", False)
        self._within.now, began = True, time.monotonic()
        try:
            yield
        finally:
            if outermost:
                self._within.now = False
                beside = threading.current_thread().name == "system metrics"
                with self._lock:
                    self.seconds["beside" if beside else "run"] += time.monotonic() - began


def tracking(folder: Path, config: Path = TINY) -> dict[str, Any]:
    """The share of a run's wall time in which it waits for MLflow; `folder` keeps nothing."""
    with tempfile.TemporaryDirectory(prefix="rnr-track-") as place:
        command = [sys.executable, "-m", "benchmarks.operate_parts.tracking", str(config), place]
        ended = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(ended.stdout.strip().splitlines()[-1])
    return found


def main() -> None:
    """Run the config in a new folder below the second argument, with its tracking timed."""
    import importlib

    from rnr_dist.commands.cli import app

    clock, place = Clock(), Path(sys.argv[2])
    for name, functions in SPENT.items():
        module = importlib.import_module(name)
        for function in functions:
            owner, _, method = function.rpartition(".")
            holder = getattr(module, owner) if owner else module
            setattr(holder, method, clock.timed(getattr(holder, method)))
    began = time.monotonic()
    app(["run", sys.argv[1], "--run", str(place / "runs" / "tracked")], standalone_mode=False)
    seconds, waited = time.monotonic() - began, clock.seconds["run"]
    told = {
        "tracking_overhead": round(waited / (seconds - waited), 4),
        "tracking_seconds": round(waited, 2),
        "tracking_beside_seconds": round(clock.seconds["beside"], 2),
        "run_seconds": round(seconds, 1),
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
