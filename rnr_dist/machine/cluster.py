"""Ray: start it here or join a cluster, and ask what there is room for (`placement` does the sum).

Invariant: a config that does not fit the machine is refused with one sentence before anything
starts; engines hold no CPUs (docs/design.md), so Ray Train never waits for theirs.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil

from rnr_dist.config.schema import Config
from rnr_dist.errors import InputError
from rnr_dist.machine.ending import ENDING
from rnr_dist.machine.placement import ENGINE, Node, Placement, arrange, place
from rnr_dist.machine.processes import end, nodes, own_signals, watch, with_descendants
from rnr_dist.machine.semaphores import remove_orphans
from rnr_dist.run.private import private_folder
from rnr_dist.run.progress import say
from rnr_dist.run.scratch import ray_folder, sweep

# What a CPU engine takes beside weights and KV cache: two interpreters with torch and vLLM.
ENGINE_OVERHEAD_GIB = 1.6
GIB = 2**30
JOIN_SECONDS = 10.0  # for a head node to take a connection
ROOM_SECONDS = 1800.0  # for what other jobs of a cluster hold
ROOM_POLL_SECONDS = 2.0
QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
SIGNAL_SECONDS = 0.1  # until the driver knows of a signal that all its processes got


def check_room(config: Config, weights_bytes: int) -> None:
    """Raises InputError when this machine has no room for what the config runs.

    A cluster (RAY_ADDRESS) has other machines: what it has room for is asked once it is joined.
    """
    if os.environ.get("RAY_ADDRESS"):
        return
    engines = config.engines
    place(config, [this_node(config)])
    if engines.gpus_each > 0:
        return
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


def this_node(config: Config) -> Node:
    """This machine as a node of its own Ray; its GPUs only where the config asks for some."""
    gpus, cores = 0, len(os.sched_getaffinity(0))
    if config.engines.gpus_each or config.workers.gpus_each:
        import torch

        gpus = torch.cuda.device_count()
    free = psutil.virtual_memory().available / GIB
    return Node(cores, gpus, config.engine_slots, free, gpu_gib() if gpus else None)


def gpu_gib() -> float | None:
    """Memory of this machine's smallest GPU, GiB; None where nothing tells.

    torch would tell as well, and hold some of it from then on.
    """
    if not (tool := shutil.which("nvidia-smi")):
        return None
    asked = [tool, "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    told = subprocess.run(asked, capture_output=True, text=True).stdout.split()
    return min(map(int, told), default=0) / 1024 or None


def joined_nodes() -> list[Node]:
    """The living nodes of the cluster that Ray has joined. Their memory Ray does not tell."""
    import ray

    return [
        Node(has.get("CPU", 0.0), int(has.get("GPU", 0)), has.get(ENGINE, 0.0))
        for has in (node["Resources"] for node in ray.nodes() if node["Alive"])
    ]


def placement(config: Config) -> Placement:
    """How the config is run on the joined cluster, which was found to have room for its engines.

    Raises InputError where it has none for a training.
    """
    return arrange(config, joined_nodes(), "the cluster")


@contextlib.contextmanager
def cluster_joined() -> Iterator[None]:
    """Join the cluster that RAY_ADDRESS names for the block, to look at it.

    Raises InputError where none answers there.
    """
    import ray

    if ray.is_initialized():
        yield
        return
    with own_signals():
        _join()
    try:
        yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def ray_session(config: Config) -> Iterator[None]:
    """Join the cluster that RAY_ADDRESS names, or run Ray on this machine for the block.

    What Ray has started here is gone when the block has ended, for whatever reason. Raises
    InputError where a cluster has not the room that the config asks for.
    """
    import ray

    if ray.is_initialized():
        yield
        return
    if not os.environ.get("RAY_ADDRESS"):
        with _own_ray(config):
            yield
        return
    # The job's own environment holds here: a second one may not repeat its variables.
    with own_signals():
        _join()
    try:
        _check_cluster(config)
        yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _own_ray(config: Config) -> Iterator[None]:
    """Ray on this machine for the block; its logs stay where the block fails, and the user is told.

    It joins nothing: a cluster that happens to run on this machine is not ours to use.
    """
    import ray

    before, logs, failed = nodes(), None, False
    with contextlib.ExitStack() as stack:
        stack.callback(_shut_down, before)
        try:
            with own_signals(), _environment(_worker_environment()):
                started = ray.init(
                    address="local",
                    num_cpus=len(os.sched_getaffinity(0)),
                    resources={ENGINE: config.engine_slots},
                    include_dashboard=False,
                    _temp_dir=str(_ray_folder()),
                    **QUIET,
                )
            logs = Path(started.address_info["session_dir"])
            stack.callback(watch(nodes() - before, _node_died))
            yield
        except Exception as error:
            failed = not isinstance(error, InputError)
            raise
        finally:
            stack.close()
            if logs and failed:
                say(f"Ray's logs of this run: {logs / 'logs'}")
            elif logs:
                shutil.rmtree(logs, ignore_errors=True)


def _join() -> None:
    """Raises InputError where no cluster answers, or one that wants a token."""
    import ray

    address = os.environ["RAY_ADDRESS"]
    host, _, port = address.rpartition(":")
    try:
        if port.isdigit() and "/" not in host:  # Ray itself would try for minutes
            socket.create_connection((host, int(port)), JOIN_SECONDS).close()
        ray.init(**QUIET)
    except (OSError, OverflowError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        if isinstance(error.__cause__, ray.exceptions.AuthenticationError):
            raise InputError(
                f"RAY_ADDRESS: found {address}, whose cluster asks for a token; expected "
                "RAY_AUTH_MODE=token and the cluster's token in ~/.ray/auth_token, see "
                "cluster/README.md"
            ) from None
        raise InputError(
            f"RAY_ADDRESS: found {address}, where no Ray cluster answers; expected HOST:PORT of a "
            "head node that runs, or RAY_ADDRESS unset, for Ray on this machine"
        ) from error


def _node_died(name: str) -> None:
    """Nothing can be asked of Ray any more, not even to end: calls would wait, or end the driver
    without a word."""
    time.sleep(SIGNAL_SECONDS)  # told to end as well, or alone?
    if ENDING.signal:
        ENDING.at_once(ENDING.code)
    if ENDING.here:
        ENDING.at_once(1, f"Ray's {name} on this machine has ended: killed, for lack of memory?")


def _shut_down(before: set[psutil.Process]) -> None:
    """End Ray here, and what it leaves: `ray.shutdown` returns before all processes have ended, a
    killed actor's engine outlives it, and neither removes its files."""
    import ray

    started = with_descendants(nodes() - before)
    ray.shutdown()
    end(started)
    sweep()
    remove_orphans()


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """The process's environment with these for the block: processes that are started have them.

    A runtime environment of Ray's would do the same, and make each process a new one.
    """
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def trainings_at_once(config: Config) -> int:
    """Trainings that the joined cluster has room for beside what lives while they run.

    Raises InputError where there is no room for a single one.
    """
    return placement(config).trainings


def _worker_environment() -> dict[str, str]:
    # Workers find the package also where it was not installed (`python jobs/rnr.py`), and a task of
    # the user's own that lies where the command was called.
    here = [str(Path(__file__).parents[2]), str(Path.cwd()), os.environ.get("PYTHONPATH")]
    return {
        "HF_HUB_OFFLINE": os.environ.get("HF_HUB_OFFLINE", "0"),
        "TOKENIZERS_PARALLELISM": "false",
        # Each thread's own malloc arena keeps what it freed: GiBs over a dozen processes.
        "MALLOC_ARENA_MAX": "2",
        # Ray 2.60 lets actors that hold no GPU see all of them: BERTScore, an oracle or the bandit
        # would take memory of an engine's card (github.com/ray-project/ray/issues/54868).
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, here)),
    }


def _ray_folder() -> Path:
    """Where Ray keeps logs and sockets, in a folder of this user alone.

    Ray opens its own to everybody, to read and to write, whatever it was before.
    """
    return private_folder(ray_folder()) / "ray"


def _check_cluster(config: Config) -> None:
    """Raises InputError where engines or a training would wait for ever, or have waited too long.

    What others hold is waited for, `ROOM_SECONDS` long, and the command says so.
    """
    import ray

    place(config, joined_nodes(), "the cluster")
    if config.engines.gpus_each > 0:
        needed, kind = config.engine_slots * config.engines.gpus_each, "GPU"
    else:
        needed, kind = float(config.engine_slots), ENGINE
    wait_for_room(kind, needed, lambda: ray.available_resources().get(kind, 0.0))


def wait_for_room(kind: str, needed: float, free: Callable[[], float]) -> None:
    """Return once so much is `free`. Says once what it waits for; raises InputError in the end."""
    began, told = time.monotonic(), False
    while (now := free()) < needed:
        if time.monotonic() - began > ROOM_SECONDS:
            raise InputError(
                f"engines.count: needs {needed:g} of the cluster's resource {kind}, of which other "
                f"jobs have left {now:g} for {ROOM_SECONDS / 60:.0f} min; expected a cluster with "
                "so much free, or fewer engines"
            )
        if not told:
            say(f"waiting for {needed:g} of {kind}: {now:g} free, the rest is held by other jobs")
            told = True
        time.sleep(ROOM_POLL_SECONDS)
