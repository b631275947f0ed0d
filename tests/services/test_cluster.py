"""A run on a cluster of three nodes, with what a cluster has beside: MLflow on PostgreSQL and S3.

The run is submitted as a job, stopped in its middle and submitted again; then the node with its
generator goes, as a spot machine does. Nodes are processes of `ray start` on this machine.
"""

import json
import os
import subprocess
import sys
import time

import psutil
import pytest

from tests.e2e.command import TINY, wait_until
from tests.nodes import ROOT, Nodes, job_environment
from tests.services.conftest import BUCKET

pytestmark = pytest.mark.timeout(900)
LONG = 400  # seconds for a part of the run
# One outer iteration and no joint search: what comes twice in a run shows nothing new here.
SHORT = ("engines.count=1", "reveal.outer_iterations=1", "release.joint.trials=0")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A head, which takes no work, and two workers with a place for an engine each."""
    with Nodes(tmp_path_factory.mktemp("nodes")) as nodes:
        nodes.head(cpus=0)
        nodes.wait_for_jobs()
        nodes.workers = [nodes.worker(cpus=1, rnr_engine=1) for _ in range(2)]
        yield nodes


def generators(node):
    """Processes of generators on a node."""
    found = []
    for process in psutil.Process(node.pid).children(recursive=True):
        try:
            if process.cmdline()[0].startswith("ray::Generator"):
                found.append(process)
        except (psutil.Error, IndexError):
            continue
    return found


def submit(cluster, folder, name, *arguments):
    """The command of a run as a job; returns when it is submitted."""
    command = ["submit", "--no-wait", "--submission-id", name, "--working-dir", ROOT]
    command += ["--runtime-env", job_environment(folder), "--", sys.executable, "jobs/rnr.py"]
    settings = [word for one in SHORT for word in ("--set", one)]
    done = cluster.job(*command, "run", TINY, *settings, *arguments)
    assert done.returncode == 0, done.stderr


def status(cluster, name):
    done = cluster.job("status", name)
    told = done.stdout + done.stderr
    [found] = [one for one in ENDED if f"'{name}' {one}" in told] or [""]
    return found


ENDED = ("succeeded", "failed", "was stopped")  # as `ray job status` says it


@pytest.fixture(scope="module")
def run(cluster, tracking, tmp_path_factory):
    """(run directory on the shared path, what the jobs told, the search's log when it stopped)."""
    shared = tmp_path_factory.mktemp("shared")
    path, told = shared / "runs" / "tiny", {}
    tracked = ["--set", f"tracking.uri={tracking}"]

    def ended(name, wanted):
        wait_until(lambda: status(cluster, name) in ENDED, LONG, f"{name} does not end")
        told[name] = cluster.job("logs", name).stdout
        assert status(cluster, name) == wanted, told[name][-4000:]

    submit(cluster, shared, "first", *tracked, "--run", path)
    revealed = path / "reveal" / "manifest.json"
    wait_until(
        lambda: revealed.exists() or status(cluster, "first") in ENDED, LONG, "nothing is revealed"
    )
    events = (path / "reveal" / "events.jsonl").read_bytes()
    cluster.job("stop", "first")
    ended("first", "was stopped")
    submit(cluster, shared, "second", *tracked, "--resume", path)
    held = lambda: [node for node in cluster.workers if generators(node)]  # noqa: E731
    wait_until(lambda: held() or status(cluster, "second") in ENDED, LONG, "no generator starts")
    time.sleep(5)  # its engine starts, or answers
    [lost] = held()
    cluster.kill(lost)
    cluster.workers.remove(lost)
    ended("second", "succeeded")
    return path, told, events


def test_a_stopped_job_says_how_to_go_on_and_the_next_does(run):
    path, told, events = run
    assert f"--resume {path}" in " ".join(told["first"].split())
    assert "reveal: done before" in told["second"]
    assert (path / "reveal" / "events.jsonl").read_bytes() == events


def test_the_run_is_whole_though_the_node_of_its_generator_went(run):
    path, told, _ = run
    summary = json.loads((path / "summary.json").read_text(encoding="utf-8"))
    assert [row["name"] for row in summary["rows"]][:2] == ["base", "retain-only"]
    done = subprocess.run(
        [sys.executable, "-m", "rnr_dist", "verify", str(path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert "Traceback" not in told["second"]


def test_its_records_are_in_postgresql(run, database):
    path, *_ = run
    runs = dict(database.ask("select name, status from runs"))
    assert runs[path.name] == "FINISHED"
    assert len(runs) > 5  # stages, trainings and trials below it
    assert set(runs.values()) <= {"FINISHED", "KILLED"}  # what the stop cut
    figures = dict(database.ask("select key, value from latest_metrics"))
    assert {key for key in figures if key.startswith("result/")}
    spool = path / "mlflow-spool.jsonl"
    assert not spool.exists() or not spool.read_bytes()
    assert not path.joinpath("mlflow-spool.jsonl.rejected").exists()


def test_its_files_are_in_s3(run, store):
    kept = {key.rsplit("/", 1)[-1] for key in store.keys(BUCKET)}
    assert {"summary.json", "config.json", "MLmodel", "adapter_model.safetensors"} <= kept


def test_no_password_of_a_server_is_in_the_run_or_in_what_it_told(run, database, store):
    path, told, _ = run
    secrets = [database.address.split(":")[2].partition("@")[0]]
    secrets.append(store.environment["AWS_SECRET_ACCESS_KEY"])
    files = [file for file in path.rglob("*") if file.is_file()]
    assert len(files) > 20
    for secret in secrets:
        assert not any(secret in text for text in told.values())
        assert not [file for file in files if secret.encode() in file.read_bytes()]


def test_who_has_another_token_is_refused(cluster, tmp_path):
    other = {**cluster.environment, "RAY_AUTH_TOKEN": "0" * 64}
    done = cluster.job("submit", "--", "touch", tmp_path / "ran", env=other)
    assert done.returncode != 0 and not (tmp_path / "ran").exists()
    done = subprocess.run(
        [sys.executable, "-m", "rnr_dist", "run", str(TINY), "--run", str(tmp_path / "run")],
        env={**other, "RAY_ADDRESS": cluster.address},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "RAY_ADDRESS" in done.stderr and "token" in done.stderr
