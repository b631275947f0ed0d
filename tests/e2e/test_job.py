"""`ray job submit` against a local head node runs the same as the command."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.e2e.command import ROOT, TINY

pytestmark = pytest.mark.timeout(1200)

RAY = Path(sys.executable).with_name("ray")


@pytest.fixture
def head(tmp_path):
    """A Ray head node on free ports, with slots for engines; ended by its own processes."""
    import socket

    def free_port() -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return probe.getsockname()[1]

    port, dashboard = free_port(), free_port()
    # A short folder: Ray's sockets may not have long paths.
    scratch = Path(f"/tmp/rnr-job-{os.getpid()}")
    command = [RAY, "start", "--head", "--block", "--num-cpus=2", '--resources={"rnr_engine": 1}']
    command += [f"--port={port}", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"]
    command += [f"--temp-dir={scratch}", "--node-ip-address=127.0.0.1"]
    log = (tmp_path / "head.log").open("w")
    node = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    address = f"http://127.0.0.1:{dashboard}"
    deadline = time.monotonic() + 60
    while subprocess.run(
        [RAY, "job", "list", "--address", address], capture_output=True
    ).returncode:
        assert time.monotonic() < deadline, (tmp_path / "head.log").read_text()
        time.sleep(1)
    yield address
    node.terminate()
    node.wait(60)


def test_job_runs_reveal_on_a_cluster(head, tmp_path):
    run = tmp_path / "run"
    command = [RAY, "job", "submit", "--address", head, "--working-dir", ROOT]
    command += ["--runtime-env", ROOT / "cluster" / "runtime_env.yaml", "--"]
    command += [sys.executable, "jobs/reveal.py", TINY, "--run", run]
    command += ["--set", "engines.count=1", "--set", "reveal.outer_iterations=1"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert (run / "reveal" / "manifest.json").exists()
    assert (run / "reveal" / "forget_set.parquet").exists()


def test_cluster_without_engine_slots_is_refused(head, tmp_path):
    """Two engines on a node with one slot would wait for ever."""
    command = [RAY, "job", "submit", "--address", head, "--working-dir", ROOT, "--"]
    command += [sys.executable, "jobs/reveal.py", TINY, "--run", tmp_path / "run"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode != 0
    assert "rnr_engine" in done.stdout + done.stderr
