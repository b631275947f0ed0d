"""jobs/rnr.py is `rnr` with the address of the cluster that the job runs in."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import rnr_dist.commands.cli

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "jobs" / "rnr.py"


@pytest.mark.parametrize(
    ("given", "expected"), [(None, "auto"), ("10.0.0.1:6379", "10.0.0.1:6379")]
)
def test_the_cluster_of_the_job_is_found_unless_an_address_is_given(given, expected, monkeypatch):
    found = []
    monkeypatch.setattr(
        rnr_dist.commands.cli, "main", lambda: found.append(os.environ["RAY_ADDRESS"])
    )
    # Set first, so that what the script sets is taken back after the test too.
    monkeypatch.setenv("RAY_ADDRESS", given or "")
    if given is None:
        monkeypatch.delenv("RAY_ADDRESS")
    runpy.run_path(str(SCRIPT), run_name="__main__")
    assert found == [expected]


def test_arguments_reach_the_command_and_its_exit_code_comes_back(tmp_path):
    done = subprocess.run(
        [sys.executable, SCRIPT, "check", "nowhere.yaml"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "nowhere.yaml" in done.stderr
    assert len(done.stderr.splitlines()) == 1
