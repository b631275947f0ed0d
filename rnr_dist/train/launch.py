"""Start an adapter training on Ray from the driver, and show how far it is.

In: items, the model to train on, config sections. Out: the trained `Adapter`. Invariant: the
adapter's folder appears whole or not at all; a training that ended before its end, by a worker's
death or the driver's, goes on from its last checkpoint with the same plan.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextvars import copy_context
from pathlib import Path
from typing import Any, Literal

import ray
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig, UserCallback
from ray.train.torch import TorchConfig, TorchTrainer

from rnr_dist.config.training import Training, Workers
from rnr_dist.errors import InputError
from rnr_dist.run.progress import progress_bar
from rnr_dist.train.collate import Item
from rnr_dist.train.deepspeed import environment
from rnr_dist.train.objectives import check_items, make_objective
from rnr_dist.train.worker import Job, plan_job, train_loop
from rnr_dist.types import Adapter, ModelRef
from rnr_dist.weights.composition import adapter_digest

# Ray Train polls its workers every 2 s by default: each report, and the end, would wait for it.
POLL_SECONDS = 0.2
# Attempts to find room for the workers (60 s each) before the training fails.
START_ATTEMPTS = 5


class ReportLog(UserCallback):
    """Appends each report as a JSON line; Ray Train runs it on the driver's node."""

    def __init__(self, path: Path):
        self.path = path

    def after_report(
        self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any
    ) -> None:
        with self.path.open("a") as log:
            log.write(json.dumps(metrics[0]) + "\n")


def train_adapter(
    items: Sequence[Item],
    base: ModelRef,
    training: Training,
    workers: Workers,
    output: Path,
    role: Literal["forget", "retain"],
    seed: int,
    storage: Path,
    on_progress: Callable[[dict[str, float]], None] | None = None,
    trust_remote_code: bool = False,
) -> Adapter:
    """Train on `base` what `training` says and write it to `output` as a PEFT LoRA, with its
    `training.json`.

    items: in the roles of `training.objective` (`collate.texts` makes them from plain examples).
    storage: folder of this training's own state and reports, removed at its end; one that an
    earlier attempt of the same training left is gone on with. on_progress: called in another
    thread with each report (step, steps, loss, tokens_per_second). Both folders must be visible
    from all nodes. Raises InputError for items of other roles, when no item has a token to learn
    and when a loss is not finite, and Ray Train's error when the workers fail more often than
    `workers.max_failures`.
    """
    objective = make_objective(training.objective)
    check_items(objective, items, str(output))
    cut = [item.cut(training.max_tokens) for item in items]
    usable = [item for item in cut if any(objective.counts([item]).values())]
    if not usable:
        raise InputError(
            f"{output}: none of {len(items)} training items has a token after its prompt "
            f"within training.max_tokens {training.max_tokens}; expected at least one"
        )
    output, storage = output.absolute(), storage.absolute()
    job = Job(
        ray.put(usable),
        base,
        training,
        workers,
        output,
        seed,
        trust_remote_code=trust_remote_code,
    )
    steps = len(plan_job(usable, job, workers.count))
    last: dict[str, float] = {}
    with progress_bar(f"{role} adapter {output.name}", steps) as advance:

        def show(report: dict[str, float]) -> None:
            last.update(report)
            advance(int(report["step"]))
            if on_progress:
                on_progress(report)

        run_workers(train_loop, job, storage, show)
    if not math.isfinite(last["loss"]):
        good = any(storage.glob("*/checkpoint_*"))
        raise InputError(
            f"{output}: the loss is {last['loss']} in step {last['step']} of {steps}; expected a "
            f"finite one: lower learning_rate {training.learning_rate:g}. "
            + (f"The last good checkpoint is kept in {storage}" if good else "No state was kept")
        )
    shutil.rmtree(storage)
    return Adapter(str(output), adapter_digest(output), base.digest, role)


def run_workers(
    loop: Callable[[dict[str, Any]], object],
    job: Job,
    storage: Path,
    show: Callable[[dict[str, float]], None],
) -> None:
    """`loop` with `job` on the job's workers, each report given to `show` in another thread.

    storage: as of `train_adapter`. Raises Ray Train's error when the workers fail too often.
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
        _fit(trainer)


def _fit(trainer: TorchTrainer) -> None:
    """`trainer.fit()` outside the main thread, where Ray would take over Ctrl-C for good.

    Its handler ends the driver with exit code 0, swallows Ctrl-C once the training is over, and
    keeps the controller alive, .3 GiB a training.
    """
    outcome: Future[object] = Future()

    def run() -> None:
        try:
            outcome.set_result(trainer.fit())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    outcome.result()


@contextlib.contextmanager
def following(log: Path, show: Callable[[dict[str, float]], None]) -> Iterator[None]:
    """Give each JSON line that is appended to `log` during the block to `show`, in a thread."""
    finished = threading.Event()

    def follow() -> None:
        rest = ""
        with log.open() as handle:
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
