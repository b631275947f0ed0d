"""What a run stands on, to be taken away: Ray nodes, a tracker, a disk, an object store.

In: a folder, free ports. Out: each of them as a context that ends with what it started.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil

from benchmarks.fault_parts.outcome import ROOT

RAY = Path(sys.executable).with_name("ray")
START_SECONDS = 120.0
STORE_BYTES = 100 * 2**20
# Holds as much of a cluster's object store as it gets, until its standard input closes.
# A node takes the user's token by itself where there is one; who joins by an address does not.
TOKEN = {"RAY_AUTH_MODE": "token"}
HOG = """
import sys, numpy, ray
ray.init(log_to_driver=False, logging_level="ERROR")
held = [ray.put(numpy.ones(2**20)) for _ in range(11)]
print("full", flush=True)
sys.stdin.read()
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


class Cluster:
    """A head of its own and further nodes, all on this machine."""

    def __init__(self, cpus: int, slots: int, store: int = 2 * STORE_BYTES):
        self._folder = Path(tempfile.mkdtemp(prefix="rnc-", dir="/tmp"))
        self._nodes: list[subprocess.Popen[bytes]] = []
        port, dashboard, agent = free_port(), free_port(), free_port()
        self.address = f"127.0.0.1:{port}"
        own = {"RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": str(ROOT), **TOKEN}
        self._environment = {**os.environ, **own}
        head = ["--head", f"--port={port}", f"--dashboard-port={dashboard}"]
        head += [f"--dashboard-agent-listen-port={agent}", f"--temp-dir={self._folder}"]
        self._start(head, cpus, slots, store)
        deadline = time.monotonic() + START_SECONDS
        while not _listens(port):
            if time.monotonic() > deadline:
                raise RuntimeError("the head node does not start")
            time.sleep(0.5)
        time.sleep(5)  # until it takes drivers

    def joining(self) -> dict[str, str]:
        """Variables of a command that joins it."""
        return {"RAY_ADDRESS": self.address, **TOKEN}

    def add(self, cpus: int, slots: int) -> subprocess.Popen[bytes]:
        """A further node, which brings engine slots."""
        more = [f"--address={self.address}"]
        return self._start(more, cpus, slots, STORE_BYTES)

    def _start(
        self, words: list[str], cpus: int, slots: int, store: int
    ) -> subprocess.Popen[bytes]:
        command = [str(RAY), "start", "--block", *words, f"--num-cpus={cpus}"]
        command += [f"--object-store-memory={store}"]
        command += [f"--resources={json.dumps({'rnr_engine': slots})}"]
        log = (self._folder.with_suffix(f".{len(self._nodes)}.log")).open("w", encoding="utf-8")
        node = subprocess.Popen(
            command, env=self._environment, stdout=log, stderr=subprocess.STDOUT
        )
        self._nodes.append(node)
        return node

    def close(self) -> None:
        for node in reversed(self._nodes):
            with contextlib.suppress(ProcessLookupError):
                node.terminate()
        for node in self._nodes:
            try:
                node.wait(30)
            except subprocess.TimeoutExpired:
                kill_tree(node.pid)
        shutil.rmtree(self._folder, ignore_errors=True)
        for log in self._folder.parent.glob(f"{self._folder.name}.*.log"):
            log.unlink()


def kill_tree(pid: int) -> None:
    """SIGKILL a process and all below it, as when a machine goes."""
    with contextlib.suppress(psutil.Error):
        top = psutil.Process(pid)
        for one in [*top.children(recursive=True), top]:
            with contextlib.suppress(psutil.Error):
                one.kill()


@contextlib.contextmanager
def cluster(cpus: int, slots: int, store: int = 2 * STORE_BYTES) -> Iterator[Cluster]:
    found = Cluster(cpus, slots, store)
    try:
        yield found
    finally:
        found.close()


@contextlib.contextmanager
def full_store(joined: Cluster) -> Iterator[None]:
    """The cluster's object store held by another driver for the block."""
    settings = {**os.environ, **joined.joining()}
    hog = subprocess.Popen(
        [sys.executable, "-c", HOG], env=settings, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert hog.stdout is not None
        if hog.stdout.readline().strip() != b"full":
            raise RuntimeError("the object store could not be filled")
        yield
    finally:
        hog.kill()
        hog.wait()


class Server:
    """An MLflow server on a database."""

    def __init__(self, folder: Path):
        self.port = free_port()
        self.database = f"sqlite:///{folder / 'server.db'}"
        self._log = folder / "server.log"
        self._artifacts = folder / "artifacts"
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--port", str(self.port)]
        command += ["--backend-store-uri", self.database, "--workers", "1"]
        command += ["--artifacts-destination", str(self._artifacts)]
        settings = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with self._log.open("a", encoding="utf-8") as log:
            self._process = subprocess.Popen(
                command, env=settings, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if time.monotonic() > deadline:
                raise RuntimeError(f"the tracker does not start, see {self._log}")
            time.sleep(0.5)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def stop(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


@contextlib.contextmanager
def server(folder: Path) -> Iterator[Server]:
    found = Server(folder)
    try:
        yield found
    finally:
        found.stop()


@contextlib.contextmanager
def small_disk(folder: Path, mib: int) -> Iterator[Path]:
    """A file system of so many MiB at `folder`, which needs the right to mount one."""
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={mib}m", "rnr-small", str(folder)]
    made = subprocess.run(mount, capture_output=True, text=True, check=False)
    if made.returncode:
        raise PermissionError(f"no file system can be mounted here ({made.stderr.strip()})")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill_up(folder: Path) -> Path:
    """A file that takes all that is left of a disk."""
    filler = folder / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as handle:
        while True:
            handle.write(b"\0" * 4096)
    return filler


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0
