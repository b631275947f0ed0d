"""The public command in a process of its own, and what it must not leave behind."""

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
TINY = Path(__file__).with_name("tiny.yaml")
# Names of processes that only rnr's runs start.
ENGINE_NAMES = ("VLLM::", "ray::Generator")


def start(arguments: list[str], log: Path, **environment: str) -> subprocess.Popen:
    """`rnr ARGUMENTS` in the background; its output goes to `log`."""
    command = [sys.executable, "-c", "from rnr_dist.commands.cli import main; main()", *arguments]
    settings = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    with log.open("a") as output:
        return subprocess.Popen(
            command, env=settings, stdout=output, stderr=subprocess.STDOUT, cwd=log.parent
        )


def rnr(arguments: list[str], cwd: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", "from rnr_dist.commands.cli import main; main()", *arguments]
    settings = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=settings, cwd=cwd, capture_output=True, text=True)


def engines_of(pid: int) -> list[psutil.Process]:
    """Generators and their engines among the descendants of a process."""
    found = []
    for process in psutil.Process(pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if " ".join(process.cmdline()).startswith(ENGINE_NAMES):
                found.append(process)
    return found


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that still run (a zombie does not)."""
    return [
        process
        for process in processes
        if process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    ]


def wait_until(condition, seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s in vain: {what}"
        time.sleep(0.5)
