"""`rnr clean`: what ended runs left goes, and nothing that anyone uses."""

import os
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

import pytest

from rnr_dist.commands.clean import YOUNG_SECONDS
from rnr_dist.machine import semaphores
from rnr_dist.run.scratch import PREFIX, Scratch, ray_folder
from rnr_dist.weights import node_cache
from tests.unit.command_fakes import rnr


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A temporary folder of its own, short enough for sockets."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        monkeypatch.setattr(tempfile, "tempdir", name)
        monkeypatch.delenv("RAY_TMPDIR", raising=False)
        memory = Path(name) / "shm"
        memory.mkdir()
        monkeypatch.setattr(semaphores, "FOLDER", memory)
        yield Path(name)


def bound(folder, name="", old=True):
    """A socket at which someone listens."""
    path = folder / (name or str(uuid.uuid4()))
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen()
    if old:
        past = time.time() - 2 * YOUNG_SECONDS
        os.utime(path, (past, past))
    return path, listener


def cached(size):
    cache = node_cache.node_folder("weights")
    (cache / "0123456789abcdef").mkdir(parents=True)
    (cache / "0123456789abcdef" / "model.safetensors").write_bytes(b"w" * size)
    return cache


def test_what_ended_runs_left_goes_and_how_much_is_said(machine, tmp_path, capsys):
    cache = cached(3 * 2**20)
    dead, listener = bound(machine)
    listener.close()
    runs = tmp_path / "runs"
    (runs / "one").mkdir(parents=True)
    sent, waiting = runs / "one" / "mlflow-spool.jsonl", runs / "two" / "mlflow-spool.jsonl"
    sent.touch()
    waiting.parent.mkdir()
    waiting.write_text('{"kind": "metrics"}\n')
    everything = [cache / "0123456789abcdef", dead, sent]
    assert rnr("clean", "--runs", runs, "--dry-run") == 0
    assert capsys.readouterr().out.endswith("3.0 MiB in 3 places would be removed\n")
    assert all(path.exists() for path in everything)
    assert rnr("clean", "--runs", runs) == 0
    told = capsys.readouterr().out
    assert told.endswith("3.0 MiB in 3 places removed\n")
    assert str(cache) in told and "1 socket(s) without a listener" in told
    assert not any(path.exists() for path in everything)
    assert waiting.read_text(), "what MLflow has not received stays"
    assert rnr("clean", "--runs", runs) == 0
    assert capsys.readouterr().out == "0.0 MiB in 0 places removed\n"


def test_what_a_living_process_uses_stays(machine, tmp_path, capsys):
    cache = cached(10)
    node_cache._mark(cache)
    alive, listener = bound(machine)
    young, other = bound(machine, old=False)
    other.close()
    driven = tmp_path / "run" / "mlflow-spool.jsonl"
    driven.parent.mkdir()
    driven.touch()
    driven.with_name(".lock").touch()
    named, third = bound(machine, "of-someone-else.sock")
    third.close()
    try:
        assert rnr("clean", "--runs", tmp_path) == 0
        assert f"{cache}: in use by a living process" in capsys.readouterr().out
        assert (cache / "0123456789abcdef").exists()
        assert alive.exists() and young.exists() and named.exists()
        assert driven.exists()
    finally:
        listener.close()
        node_cache.leave(cache)
    assert not (cache / "0123456789abcdef").exists()


def test_scratch_and_sessions_of_killed_commands_go_too(machine, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    scratch = machine / f"{PREFIX}abc"
    session = ray_folder() / "ray" / f"session_2026-01-31_10-15-02_123456_{os.getpid()}"
    for folder, size in ((scratch, 2**20), (session / "logs", 2**21)):
        folder.mkdir(parents=True)
        (folder / "file").write_bytes(b"x" * size)
    held = Scratch()
    assert rnr("clean", "--runs", tmp_path, "--dry-run") == 0
    assert capsys.readouterr().out.endswith("3.0 MiB in 2 places would be removed\n")
    assert scratch.exists() and session.exists()
    assert rnr("clean", "--runs", tmp_path) == 0
    first, second, last = capsys.readouterr().out.splitlines()
    assert first.split() == f"1.0 MiB scratch of a killed process {scratch}".split()
    assert second.split() == f"2.0 MiB ended session of Ray {session}".split()
    assert last.split() == ["3.0", "MiB", "in", "2", "places", "removed"]
    assert not scratch.exists() and not session.exists()
    assert held.path.exists()
    held.remove()


def test_a_cache_of_someone_else_stays(machine, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "mine").write_text("mine")
    node_cache.node_folder("weights").symlink_to(elsewhere)
    assert rnr("clean", "--runs", tmp_path) == 0
    assert (elsewhere / "mine").exists()


def test_sessions_and_semaphores_of_dead_processes_go_and_those_of_living_ones_stay(
    machine, tmp_path, capsys
):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    stay, go = [], []
    for pid, group in ((dead.pid, go), (os.getppid(), stay)):
        session = machine / f"rnr-ray-{os.getuid()}/ray/session_2026-01-02_03-04-05_678901_{pid}"
        (session / "logs").mkdir(parents=True)
        (session / "logs" / "raylet.out").write_bytes(b"l" * 2**20)
        semaphore = machine / "shm" / f"sem.loky-{pid}-abcdefgh"
        semaphore.touch()
        group += [session, semaphore]
    assert rnr("clean", "--runs", tmp_path, "--dry-run") == 0
    assert "1.0 MiB in 2 places would be removed" in capsys.readouterr().out
    assert all(path.exists() for path in (*go, *stay))
    assert rnr("clean", "--runs", tmp_path) == 0
    assert "1 semaphore(s) of killed processes" in capsys.readouterr().out
    assert not any(path.exists() for path in go)
    assert all(path.exists() for path in stay)
