"""Ray nodes of a cluster of one's own on this machine: processes of `ray start`, on free ports.

Nothing of another cluster here is joined, used or ended: `ray stop` would end all of them.
"""

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import yaml

ROOT = Path(__file__).parents[1]
RAY = Path(sys.executable).with_name("ray")
START_SECONDS = 120


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Nodes:
    """A head, and workers that join it; all of them know one token, which nobody else does.

    address: of the cluster. dashboard: of its job server. environment: that of who may use it.
    """

    def __init__(self, logs: Path, **environment: str):
        self._logs = logs
        self._port, dashboard = free_port(), free_port()
        self.address = f"127.0.0.1:{self._port}"
        self.dashboard = f"http://127.0.0.1:{dashboard}"
        self._dashboard = dashboard
        # A short folder: Ray's sockets may not have long paths.
        self._scratch = tempfile.mkdtemp(prefix="rnr-nodes-", dir="/tmp")
        known = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        self.environment = {**os.environ, "PYTHONPATH": str(ROOT), **known, **environment}
        self._nodes: list[subprocess.Popen] = []

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for node in self._nodes:
            self.kill(node)
        shutil.rmtree(self._scratch, ignore_errors=True)

    def head(self, *options: str, **resources: float) -> subprocess.Popen:
        command = ["--head", f"--port={self._port}", f"--temp-dir={self._scratch}"]
        command += ["--dashboard-host=127.0.0.1", f"--dashboard-port={self._dashboard}"]
        return self._start("head", [*command, *options], resources)

    def worker(self, **resources: float) -> subprocess.Popen:
        """One that has joined."""
        deadline = time.monotonic() + START_SECONDS
        joining = [f"--address={self.address}"]
        while not self._joined(node := self._start("worker", joining, dict(resources))):
            assert time.monotonic() < deadline, f"no worker joins, see {self._logs}"
            self._nodes.remove(node)
        return node

    def _joined(self, node: subprocess.Popen) -> bool:
        """Whether it has come up: Ray 2.60 gives a node 30 s, which a busy machine may not."""
        log = self._logs / f"worker-{len(self._nodes) - 1}.txt"
        while "Ray runtime started" not in log.read_text(encoding="utf-8"):
            if node.poll() is not None:
                return False
            time.sleep(0.5)
        return True

    def _start(self, name, options, resources) -> subprocess.Popen:
        cpus = resources.pop("cpus", 0)
        command = [str(RAY), "start", "--block", "--node-ip-address=127.0.0.1", *options]
        command += [f"--num-cpus={cpus}", f"--resources={json.dumps(resources)}"]
        # Each node has an agent of its own, and they share one machine here.
        for port in ("dashboard-agent-listen-port", "metrics-export-port"):
            command.append(f"--{port}={free_port()}")
        log = self._logs / f"{name}-{len(self._nodes)}.txt"
        with log.open("w", encoding="utf-8") as output:
            node = subprocess.Popen(
                command, env=self.environment, stdout=output, stderr=subprocess.STDOUT
            )
        self._nodes.append(node)
        return node

    def kill(self, node: subprocess.Popen) -> None:
        """All processes of a node at once, as a spot machine goes."""
        family = [node]
        with contextlib.suppress(psutil.NoSuchProcess):
            family += psutil.Process(node.pid).children(recursive=True)
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        node.wait(60)

    def job(self, *arguments: object, **running) -> subprocess.CompletedProcess:
        """`ray job ARGUMENTS` on this cluster."""
        first, *rest = arguments
        command = [RAY, "job", first, "--address", self.dashboard, *rest]
        settings = {"env": self.environment, "capture_output": True, "text": True, **running}
        return subprocess.run([str(word) for word in command], **settings)

    def wait_for_jobs(self) -> None:
        """A head takes jobs some seconds after it answers."""
        deadline = time.monotonic() + START_SECONDS
        while (tried := self.job("submit", "--", "true")).returncode:
            late = time.monotonic() > deadline or any(
                node.poll() is not None for node in self._nodes
            )
            assert not late, f"the head takes no job, see {self._logs}: {tried.stderr[-2000:]}"
            time.sleep(1)


def job_environment(folder: Path) -> Path:
    """The shipped environment of a job, with this machine's cache in place of a cluster's."""
    content = yaml.safe_load((ROOT / "cluster" / "runtime_env.yaml").read_text(encoding="utf-8"))
    for name in ("RNR_CACHE_DIR", "HF_HOME"):
        del content["env_vars"][name]
        if name in os.environ:
            content["env_vars"][name] = os.environ[name]
    content["env_vars"]["HF_HUB_OFFLINE"] = "1"
    path = folder / "runtime_env.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path
