"""Ray: start it here or join a cluster, and the plan of who needs what in which phase.

Invariant: a plan that does not fit the machine is refused with one sentence before anything
starts; engines hold no CPUs (docs/design.md), so Ray Train never waits for theirs.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rnr_dist.config.engines import Engines
from rnr_dist.config.schema import Config
from rnr_dist.errors import InputError
from rnr_dist.run.private import private_folder

# What a CPU engine takes beside weights and KV cache: two interpreters with torch and vLLM.
ENGINE_OVERHEAD_GIB = 1.6
GIB = 2**30


def check_room(config: Config, weights_bytes: int) -> None:
    """Raises InputError when this machine has no room for the configured engines.

    A cluster (RAY_ADDRESS) has other machines: what it has room for is asked once it is joined.
    """
    engines = config.engines
    if os.environ.get("RAY_ADDRESS"):
        return
    if engines.gpus_each > 0:
        _check_gpus(engines)
        return
    import psutil

    cores = len(os.sched_getaffinity(0))
    if engines.count * engines.cpus_each > cores:
        raise InputError(
            f"engines.count: found {engines.count} generators of {engines.cpus_each} core(s), "
            f"this machine has {cores} core(s); expected at most {cores // engines.cpus_each}"
        )
    each = weights_bytes / GIB + engines.kv_cache_gib + ENGINE_OVERHEAD_GIB
    free = psutil.virtual_memory().available / GIB
    if engines.count * each > free:
        raise InputError(
            f"engines.count: found {engines.count} generators of about {each:.1f} GiB, this "
            f"machine has {free:.1f} GiB free; expected at most {int(free / each)}"
        )


def _check_gpus(engines: Engines) -> None:
    import torch

    gpus = torch.cuda.device_count()
    if engines.count * engines.gpus_each > gpus:
        raise InputError(
            f"engines.count: found {engines.count} generators of {engines.gpus_each:g} GPU(s), "
            f"this machine has {gpus} GPU(s); expected at most {int(gpus / engines.gpus_each)}"
        )


@contextlib.contextmanager
def ray_session(config: Config) -> Iterator[None]:
    """Join the cluster that RAY_ADDRESS names, or run Ray on this machine for the block."""
    import ray

    if ray.is_initialized():
        yield
        return
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    if os.environ.get("RAY_ADDRESS"):
        # The job's own runtime environment holds here: a second one may not repeat its variables.
        ray.init(**quiet)
    else:
        # Joining nothing: a cluster that happens to run on this machine is not ours to use.
        ray.init(
            address="local",
            num_cpus=len(os.sched_getaffinity(0)),
            resources={"rnr_engine": config.engine_slots},
            include_dashboard=False,
            _temp_dir=str(_ray_folder()),
            runtime_env={"env_vars": _worker_environment()},
            **quiet,
        )
    try:
        if os.environ.get("RAY_ADDRESS"):
            _check_engine_slots(config)
        yield
    finally:
        ray.shutdown()


def trainings_at_once(config: Config) -> int:
    """Trainings that the joined cluster has room for beside its engines, at least one."""
    import ray

    workers, engines = config.workers, config.engines
    resources = ray.cluster_resources()
    if workers.gpus_each:
        free = resources.get("GPU", 0.0) - engines.count * engines.gpus_each
        return max(1, int(free / (workers.count * workers.gpus_each)))
    return max(1, int(resources.get("CPU", 0.0) / (workers.count * workers.cpus_each)))


def _worker_environment() -> dict[str, str]:
    # Workers find the package also where it was not installed (`python jobs/rnr.py`), and a task of
    # the user's own that lies where the command was called.
    here = [str(Path(__file__).parents[2]), str(Path.cwd()), os.environ.get("PYTHONPATH")]
    return {
        "HF_HUB_OFFLINE": os.environ.get("HF_HUB_OFFLINE", "0"),
        "TOKENIZERS_PARALLELISM": "false",
        # Each thread's own malloc arena keeps what it freed: GiBs over a dozen processes.
        "MALLOC_ARENA_MAX": "2",
        "PYTHONPATH": os.pathsep.join(filter(None, here)),
    }


def _ray_folder() -> Path:
    """Where Ray keeps logs and sockets, in a folder of this user alone.

    Ray opens its own to everybody, to read and to write, whatever it was before.
    """
    above = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    return private_folder(Path(above).absolute() / f"rnr-ray-{os.getuid()}") / "ray"


def _check_engine_slots(config: Config) -> None:
    """On a cluster CPU engines need `rnr_engine` slots; waiting for them would last for ever."""
    import ray

    if config.engines.gpus_each > 0:
        needed, kind = config.engine_slots * config.engines.gpus_each, "GPU"
    else:
        needed, kind = float(config.engine_slots), "rnr_engine"
    found = ray.cluster_resources().get(kind, 0.0)
    if found < needed:
        raise InputError(
            f"engines.count: needs {needed:g} of the cluster's resource {kind}, which has "
            f"{found:g}; see cluster/README.md"
        )
