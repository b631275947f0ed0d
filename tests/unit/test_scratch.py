"""Temporary files of a process: private, and removed by the next one when it was killed."""

import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from benchmarks.fault_parts.running import Running
from rnr_dist.run.scratch import Scratch, ended_sessions, ray_folder, sweep, swept

ROOT = Path(__file__).parents[2]
HOLD = """
import sys
from rnr_dist.run.scratch import Scratch
scratch = Scratch()
(scratch.path / "socket").touch()
print(scratch.path, flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


@pytest.fixture
def other(tmp_path):
    """(another process, its folder)"""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD],
        env=os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    yield process, Path(process.stdout.readline().strip())
    process.kill()
    process.wait()


def test_a_folder_is_closed_to_others_and_removed_with_what_is_in_it(tmp_path):
    scratch = Scratch()
    assert scratch.path.parent == tmp_path
    assert stat.S_IMODE(scratch.path.stat().st_mode) == 0o700
    (scratch.path / "socket").touch()
    scratch.remove()
    assert not any(tmp_path.iterdir())


def test_what_a_killed_process_left_is_swept_and_what_a_living_one_has_stays(other):
    process, folder = other
    assert sweep() == 0
    assert (folder / "socket").exists()
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert folder.exists()
    assert sweep() == 1
    assert not folder.exists()


def test_what_is_not_ours_stays(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "rnr-scratch-link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "rnr-scratch-file").touch()
    assert sweep() == 0
    assert {path.name for path in tmp_path.iterdir()} == {
        "elsewhere",
        "rnr-scratch-link",
        "rnr-scratch-file",
    }


def test_what_would_go_is_told_with_its_size(other):
    process, folder = other
    (folder / "socket").write_bytes(b"x" * 100)
    assert swept(dry=True) == []
    process.kill()
    process.wait()
    assert swept(dry=True) == [(folder, 100)]
    assert folder.exists()
    assert swept(dry=False) == [(folder, 100)]
    assert not folder.exists()


# Sessions of Ray


def session(driver, listening=False):
    """A session as Ray leaves it when it has ended; the listener of its socket."""
    folder = ray_folder() / "ray" / f"session_2026-01-31_10-15-02_123456_{driver}"
    (folder / "sockets").mkdir(parents=True)
    (folder / "logs").mkdir()
    (folder / "logs" / "gcs_server.out").write_text("started", encoding="utf-8")
    (folder / "gcs_server_port_1").write_text("6379", encoding="utf-8")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(folder / "sockets" / "raylet"))
    if listening:
        listener.listen()
    return folder, listener


@pytest.fixture
def gone():
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.fixture
def short(monkeypatch):
    """A temporary folder whose sockets have short paths."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        monkeypatch.setattr(tempfile, "tempdir", name)
        monkeypatch.delenv("RAY_TMPDIR", raising=False)
        yield Path(name)


def test_of_a_session_that_is_over_only_the_logs_stay(short, gone):
    over, _ = session(gone)
    own, _ = session(os.getpid())
    alive, _ = session(os.getppid())
    other, listener = session("0", listening=True)
    (over / "link").symlink_to(alive)
    (ray_folder() / "ray" / "session_latest").symlink_to(alive)
    assert ended_sessions() == sorted([over, own])
    sweep()
    for folder in (over, own):
        assert [path.name for path in folder.rglob("*")] == ["logs", "gcs_server.out"]
    for folder in (alive, other):
        assert (folder / "sockets" / "raylet").exists()
        assert (folder / "gcs_server_port_1").exists()
    listener.close()


def files(running):
    """What it has left of files; shared memory may be other tests'."""
    return [one for one in running.left_behind() if one.startswith("file ")]


def test_a_fault_s_left_files_are_found_beside_ray_s_logs(short, gone, tmp_path):
    """What the benchmark calls left behind, by the folder that the command really makes."""
    running = Running(["--help"], tmp_path, scratch=short)
    try:
        assert running.end() == 0
        over, _ = session(gone)
        (ray_folder() / "ray" / "session_latest").symlink_to(over)
        assert files(running) == [
            f"file {(over / name).relative_to(short)}"
            for name in ("gcs_server_port_1", "sockets/raylet")
        ]
        sweep()
        assert files(running) == []
        (short / "rnr-weights-0" / "deep").mkdir(parents=True)
        (short / "rnr-weights-0" / "deep" / "model.safetensors").touch()
        assert files(running) == ["file rnr-weights-0"]
    finally:
        running.clear()
