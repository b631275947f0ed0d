"""`ray job submit` against a local head node runs the same as the command."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import yaml

from tests.e2e.command import ROOT, TINY, wait_until

pytestmark = pytest.mark.timeout(1200)

RAY = Path(sys.executable).with_name("ray")


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """A Ray head node on free ports, with slots for engines; ended by its own processes."""
    port, dashboard, agent = (free_port() for _ in range(3))
    # A short folder: Ray's sockets may not have long paths.
    scratch = Path(tempfile.mkdtemp(prefix="rnr-job-", dir="/tmp"))
    command = [RAY, "start", "--head", "--block", "--num-cpus=2", '--resources={"rnr_engine": 1}']
    command += [f"--port={port}", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"]
    command += [f"--dashboard-agent-listen-port={agent}", f"--temp-dir={scratch}"]
    log = tmp_path_factory.mktemp("head") / "log.txt"
    with log.open("w") as output:
        node = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    address = f"http://127.0.0.1:{dashboard}"
    trivial = [RAY, "job", "submit", "--address", address, "--", "true"]
    try:
        # The node takes jobs some seconds after it answers.
        wait_until(
            lambda: subprocess.run(trivial, capture_output=True).returncode == 0,
            120,
            f"the head node takes no job, see {log}",
        )
        yield address
    finally:
        node.terminate()
        node.wait(60)
        shutil.rmtree(scratch, ignore_errors=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def runtime_env(tmp_path):
    """The shipped environment, with this machine's cache instead of the cluster's storage."""
    content = yaml.safe_load((ROOT / "cluster" / "runtime_env.yaml").read_text())
    for name in ("RNR_CACHE_DIR", "HF_HOME"):
        del content["env_vars"][name]
        if name in os.environ:
            content["env_vars"][name] = os.environ[name]
    content["env_vars"]["HF_HUB_OFFLINE"] = "1"
    path = tmp_path / "runtime_env.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_job_runs_reveal_on_a_cluster(head, runtime_env, tmp_path):
    run = tmp_path / "run"
    command = [RAY, "job", "submit", "--address", head, "--working-dir", ROOT]
    command += ["--runtime-env", runtime_env, "--"]
    command += [sys.executable, "jobs/reveal.py", TINY, "--run", run]
    command += ["--set", "engines.count=1", "--set", "reveal.outer_iterations=1"]
    command += ["--set", "reveal.arms=6", "--set", "reveal.budget=2"]
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
