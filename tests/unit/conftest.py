"""The command on a small config, in a folder of its own."""

import os
from types import SimpleNamespace

import psutil
import pytest

from rnr_dist.generate import pool
from tests.unit.command_fakes import furnish, rnr


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working directory with a config, its texts and a checkpoint, on a roomy machine."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=2**36))
    furnish(tmp_path)
    return tmp_path


@pytest.fixture
def refused(place, capsys):
    """Run a command that must fail; returns its one sentence. Nothing may have been made."""

    def sentence(*arguments):
        capsys.readouterr()  # what commands before it printed
        before = sorted(place.rglob("*"))
        assert rnr(*arguments) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        [line] = captured.err.splitlines()
        assert line.startswith("rnr: ")
        assert sorted(place.rglob("*")) == before
        return line.removeprefix("rnr: ")

    return sentence


@pytest.fixture
def restarts_are_polled_quickly(monkeypatch):
    """Of an engine that died the pool asks every millisecond whether it is back."""
    monkeypatch.setattr(pool, "RESTART_POLL_SECONDS", 0.001)
