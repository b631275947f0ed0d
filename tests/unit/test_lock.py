"""One driver at a time in a run directory; names of runs that nobody else gets."""

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import rnr_dist.recipes.pipeline
from rnr_dist.errors import InputError
from rnr_dist.recipes.pipeline import run_folder
from rnr_dist.run.lock import LOCK_NOTE, held
from tests.unit.command_fakes import furnish, rnr

ROOT = Path(__file__).parents[2]
HOLD = """
import sys
from pathlib import Path
from rnr_dist.run.lock import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds `tmp_path / "mine"`."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path / "mine"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def refusal(folder):
    with pytest.raises(InputError) as caught, held(folder):
        pass
    return str(caught.value)


def test_a_second_driver_is_told_who_holds_the_folder(holder, tmp_path):
    told = refusal(tmp_path / "mine")
    assert told.startswith(f"{tmp_path / 'mine'}: process {holder.pid} on {socket.gethostname()}")
    assert "works on it" in told and "since 20" in told


def test_a_killed_driver_holds_nothing(holder, tmp_path):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / "mine" / LOCK_NOTE).exists()
    with held(tmp_path / "mine"):
        assert str(os.getpid()) in refusal(tmp_path / "mine")


def test_an_ended_driver_leaves_nothing(holder, tmp_path):
    holder.communicate("")
    assert not (tmp_path / "mine").exists()  # it has written nothing there
    with held(tmp_path / "mine"):
        (tmp_path / "mine" / "result").touch()
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["result"]


def test_what_another_machine_has_not_given_back_is_explained(tmp_path):
    note = tmp_path / LOCK_NOTE
    note.write_text(json.dumps({"host": "elsewhere", "pid": 7, "since": "2026-01-01 10:00:00"}))
    told = refusal(tmp_path)
    assert "process 7 on elsewhere (since 2026-01-01 10:00:00)" in told
    assert f"if that process is gone, delete {note}" in told
    note.unlink()
    with held(tmp_path):
        pass


@pytest.mark.parametrize("content", ["", "{", "[1]", "half a no"])
def test_a_note_that_says_nothing_is_no_holder(tmp_path, content):
    (tmp_path / LOCK_NOTE).write_text(content)
    with held(tmp_path):
        assert json.loads((tmp_path / LOCK_NOTE).read_text())["pid"] == os.getpid()


def test_where_files_cannot_be_locked_the_note_tells(tmp_path, monkeypatch):
    def unsupported(handle, how):
        raise OSError(errno.ENOTSUP, "not supported")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with held(tmp_path):
        assert f"process {os.getpid()}" in refusal(tmp_path)
    ended = subprocess.Popen(["true"])
    ended.wait()
    note = {"host": socket.gethostname(), "pid": ended.pid, "since": "then"}
    (tmp_path / LOCK_NOTE).write_text(json.dumps(note))
    with held(tmp_path):
        pass


def test_several_folders_are_held_or_none(tmp_path):
    with held(tmp_path / "b"):
        assert str(tmp_path / "b") in refusal_of_both(tmp_path)
    with held(tmp_path / "a", tmp_path / "b"):
        pass


def refusal_of_both(folder):
    with pytest.raises(InputError) as caught, held(folder / "a", folder / "b"):
        pass
    assert not (folder / "a").exists()
    return str(caught.value)


def test_a_place_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").touch()
    assert refusal(tmp_path / "file").endswith("is a file; expected an unused directory")
    assert "cannot be made" in refusal(Path("/proc/mine"))


@pytest.mark.parametrize("option", ["--run", "--resume"])
def test_a_second_driver_is_refused_and_changes_nothing(
    holder, tmp_path, capsys, monkeypatch, option
):
    monkeypatch.chdir(tmp_path)
    furnish(tmp_path)
    ran = []
    monkeypatch.setattr(
        rnr_dist.recipes.pipeline, "run_pipeline", lambda *called: ran.append(called)
    )
    if option == "--resume":
        (tmp_path / "mine" / "config.json").write_text("{}")
    before = sorted(path.name for path in (tmp_path / "mine").iterdir())
    assert rnr("run", "config.yaml", option, "mine") == 2
    assert f"mine: process {holder.pid}" in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "mine").iterdir()) == before
    assert not ran


def test_a_refused_folder_that_is_no_run_stays_as_it_was(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    furnish(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").touch()
    assert rnr("run", "config.yaml", "--run", "photos") == 2
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["cat.png"]


def test_two_runs_of_one_second_have_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(rnr_dist.recipes.pipeline.time, "strftime", lambda form: "now")
    names = [run_folder(tmp_path / "runs", "small").name for _ in range(3)]
    assert names == ["small-now", "small-now-2", "small-now-3"]
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file/small-now: cannot be made"):
        run_folder(tmp_path / "file", "small")
