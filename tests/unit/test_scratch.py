"""Temporary files of a process: private, and removed by the next one when it was killed."""

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from rnr_dist.run.scratch import Scratch, sweep

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
