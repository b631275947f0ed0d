"""Run a training's loop on Ray Train's workers, and follow its reports from the driver.

In: a loop, its job, a folder for its state. Out: each report as it comes. Invariant: a training
that ended before its end, by a worker's death or the driver's, goes on from its last checkpoint
with the same plan.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Callable, Iterator
from contextvars import copy_context
from pathlib import Path
from typing import Any

from ray.train import (
    CheckpointConfig,
    ControllerError,
    FailureConfig,
    RunConfig,
    ScalingConfig,
    TrainingFailedError,
    UserCallback,
)
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2._internal.exceptions import (
    InsufficientClusterResourcesError,
    WorkerGroupStartupTimeoutError,
)

from rnr_dist.config.training import Workers
from rnr_dist.errors import InputError, told_in
from rnr_dist.machine.threads import apart
from rnr_dist.train.deepspeed import environment
from rnr_dist.train.job import Job

# Ray Train polls its workers every 2 s by default: each report, and the end, would wait for it.
POLL_SECONDS = 0.2
# Attempts to find room for the workers (60 s each) before the training fails.
START_ATTEMPTS = 5
NO_PLACE = (InsufficientClusterResourcesError, WorkerGroupStartupTimeoutError)


class ReportLog(UserCallback):
    """Appends each report as a JSON line; Ray Train runs it on the driver's node."""

    def __init__(self, path: Path):
        self.path = path

    def after_report(
        self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any
    ) -> None:
        with self.path.open("a", encoding="utf-8") as log:
            log.write(json.dumps(metrics[0]) + "\n")


def run_workers(
    loop: Callable[[dict[str, Any]], object],
    job: Job,
    storage: Path,
    show: Callable[[dict[str, float]], None],
) -> None:
    """`loop` with `job` on the job's workers, each report given to `show` in another thread.

    storage: folder of Ray Train's own state and of the reports; one that an earlier attempt of the
    same training left is gone on with. It must be visible from all nodes. Raises Ray Train's error
    when the workers fail more often than `workers.max_failures`.
    """
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", str(POLL_SECONDS))
    workers = job.workers
    log = storage / "reports.jsonl"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.touch()
    trainer = TorchTrainer(
        loop,
        train_loop_config={"job": job},
        torch_config=TorchConfig(backend="nccl" if workers.gpus_each else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=workers.count,
            use_gpu=workers.gpus_each > 0,
            resources_per_worker={"GPU": 1} if workers.gpus_each else {"CPU": workers.cpus_each},
        ),
        run_config=RunConfig(
            name="train",  # Ray Train goes on with one of the same name, and so it shall
            storage_path=str(storage),
            checkpoint_config=CheckpointConfig(num_to_keep=1),
            failure_config=FailureConfig(
                max_failures=workers.max_failures, controller_failure_limit=START_ATTEMPTS
            ),
            callbacks=[ReportLog(log)],
            worker_runtime_env={"env_vars": environment(workers)},
        ),
    )
    with following(log, show):
        _fit(trainer, workers)


def _fit(trainer: TorchTrainer, workers: Workers) -> None:
    """`trainer.fit()`. Raises InputError for bad input of a worker, and where there is no room."""
    try:
        apart(trainer.fit)
    except TrainingFailedError as error:
        failure = error.controller_failure if isinstance(error, ControllerError) else error
        if isinstance(failure, NO_PLACE):
            each = f"{workers.gpus_each or workers.cpus_each} "
            each += "GPU" if workers.gpus_each else "core(s)"
            raise InputError(
                f"workers.count: found {workers.count} training worker(s) of {each}, for which Ray "
                f"had no place in {START_ATTEMPTS} attempts of a minute; expected fewer, or a "
                "cluster that has so much free"
            ) from error
        raise told_in(error, InputError) or error from None


@contextlib.contextmanager
def following(log: Path, show: Callable[[dict[str, float]], None]) -> Iterator[None]:
    """Give each JSON line that is appended to `log` during the block to `show`, in a thread."""
    finished = threading.Event()

    def follow() -> None:
        rest = ""
        with log.open(encoding="utf-8") as handle:
            last = False
            while not last:
                last = finished.wait(POLL_SECONDS)
                *lines, rest = (rest + handle.read()).split("\n")
                for line in lines:
                    show(json.loads(line))

    # In a copy of the caller's context: what it shows belongs to the caller's run in MLflow.
    thread = threading.Thread(target=copy_context().run, args=(follow,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        finished.set()
        thread.join()
