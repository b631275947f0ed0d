"""`make test-services` installs what it needs, or says in one sentence why it cannot."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
INSTALL = ROOT / "tests" / "services" / "install"
BESIDE = ("bash", "grep", "head", "mktemp", "rm", "env")  # what else the script runs


@pytest.fixture
def machine(tmp_path):
    """A machine by the commands that it has: name and what each does, in bash."""

    def run(**commands):
        for name in BESIDE:
            [found] = [Path(f"/usr/bin/{name}")]
            (tmp_path / name).symlink_to(found)
        for name, does in commands.items():
            command = tmp_path / name.replace("_", "-")
            command.write_text(f"#!/usr/bin/bash\n{does}\n", encoding="utf-8")
            command.chmod(0o755)
        return subprocess.run(
            ["bash", str(INSTALL)],
            env={**os.environ, "PATH": str(tmp_path)},
            capture_output=True,
            text=True,
        )

    return run


def sentence(done):
    assert done.returncode == 1 and done.stdout == ""
    [line] = done.stderr.splitlines()
    assert (
        line.startswith("make test-services: ") and "expected Debian 12, root and a network" in line
    )
    return line


def test_nothing_is_installed_where_all_is_there(machine):
    done = machine(dpkg_query="echo installed", apt_get="echo asked; exit 1", id="echo 0")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_what_is_missing_is_installed_after_one_update(machine, tmp_path):
    there = '[[ "$*" = *chromium* ]] && echo installed || exit 1'
    done = machine(dpkg_query=there, id="echo 0", apt_get=f'echo "$*" >> {tmp_path}/asked')
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    update, install = (tmp_path / "asked").read_text(encoding="utf-8").splitlines()
    assert update.split() == ["-qq", "update"]
    assert "postgresql" in install and "swift-proxy" in install and "chromium" not in install


def test_without_apt_without_root_and_without_a_network_it_is_one_sentence(machine):
    assert "found no apt-get to install chromium" in sentence(machine(dpkg_query="exit 1"))


def test_who_is_not_root_is_told(machine):
    done = machine(
        dpkg_query="exit 1", apt_get="exit 0", id='[[ $1 = -u ]] && echo 1000 || echo "me"'
    )
    assert "found user me, who may not install chromium" in sentence(done)


def test_what_apt_says_is_told(machine):
    failing = "echo reading; echo 'E: Could not resolve host' >&2; exit 100"
    done = machine(dpkg_query="exit 1", apt_get=failing, id="echo 0")
    assert "(E: Could not resolve host)" in sentence(done)


def test_continuous_integration_calls_both():
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line.startswith("make ")] == [
        "make test",
        "make test-services",
    ]
    assert "set -euo pipefail" in lines
    rule = (ROOT / "Makefile").read_text(encoding="utf-8").partition("\ntest-services:")[2]
    assert rule.index("tests/services/install") < rule.index("pytest tests/services")
