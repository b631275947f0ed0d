"""Semaphores in shared memory: those of the dead go, all others stay."""

import os
import subprocess
import sys

from rnr_dist.machine import semaphores


def test_those_of_the_dead_go_and_those_of_the_living_and_of_others_stay(tmp_path, monkeypatch):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    names = {
        f"sem.loky-{dead.pid}-abc_1234": False,
        f"sem.loky-{os.getpid()}-abc_1234": True,
        "sem.loky-x-abc_1234": True,
        "sem.mp-abc_1234": True,
        "psm_1234": True,
    }
    for name in names:
        (tmp_path / name).touch()
    monkeypatch.setattr(semaphores, "FOLDER", tmp_path)
    assert semaphores.remove_orphans() == 1
    assert {name: (tmp_path / name).exists() for name in names} == names


def test_multiprocessing_names_them_so_once_joblib_is_there():
    """The names that the sweep looks for are those that processes of a run make."""
    code = (
        "import multiprocessing, os, joblib.externals.loky.backend\n"
        "held = multiprocessing.get_context('spawn').Lock()\n"
        "print(held._semlock.name.strip('/'))"
    )
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert semaphores.NAME.fullmatch(f"sem.{made.stdout.strip()}")
