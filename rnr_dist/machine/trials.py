"""Trials of Ray Tune: the one way in which weights and settings are searched.

In: a function, what each trial is given, what all share. Out: every trial has ended; the first
error of one is raised. Invariant: one search at a time in a driver, since Tune knows trainables by
their name and two searches would run each other's trials.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rnr_dist.errors import InputError, told_in
from rnr_dist.machine.threads import apart

# A trial only asks the pool, or waits for the training that it starts. It holds no part of a core:
# the training may want them all. Tune wants it to hold something, so it is a MiB of memory.
HELD = {"cpu": 0, "memory": 2**20}
_tuning = threading.Lock()


@dataclass(frozen=True)
class Search:
    """One search of Ray Tune. name, storage: of Tune's own state. at_once: trials at the same time.
    max_failures: further attempts of a trial."""

    name: str
    storage: Path
    at_once: int
    max_failures: int = 0
    callbacks: tuple[Any, ...] = ()


def withhold_keys() -> None:
    """Tune 2.60 hands the driver's AWS keys to each trial by its runtime environment, which Ray
    writes into its logs. A trial needs none: it works in folders."""
    from ray.tune.execution.class_cache import ENV_VARS_TO_PROPAGATE

    ENV_VARS_TO_PROPAGATE.difference_update(
        [name for name in ENV_VARS_TO_PROPAGATE if name.startswith("AWS_")]
    )


def run_trials(
    trial: Callable[..., None], given: Sequence[Any], search: Search, **shared: Any
) -> None:
    """`trial({"given": one}, **shared)` for each of `given`."""
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # Tune 2.60 prints tables whatever `verbose` says
    # Its CSV, JSON and TensorBoard files, which nobody reads: MLflow has the trials.
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    from ray import tune

    withhold_keys()
    with _tuning:
        tuner = tune.Tuner(
            tune.with_resources(tune.with_parameters(trial, **shared), HELD),
            param_space={"given": tune.grid_search(list(given))},
            tune_config=tune.TuneConfig(max_concurrent_trials=search.at_once),
            run_config=tune.RunConfig(
                name=search.name,
                storage_path=str(search.storage.absolute()),
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=search.max_failures),
                callbacks=list(search.callbacks),
            ),
        )
        results = apart(tuner.fit)
    for result in results:
        if result.error:
            raise as_raised(result.error)


def as_raised(error: object) -> BaseException:
    """What a trial's error is raised as: of what fails in the driver itself, Tune has a text."""
    if not isinstance(error, BaseException):
        return RuntimeError(str(error))
    return told_in(error, InputError) or error
