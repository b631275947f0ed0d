"""What a command has started and ends: nothing of it is left in the shared memory."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from rnr_dist.machine.processes import end, with_descendants

SHARED = Path("/dev/shm")
# As trainings and engines do: a semaphore with a name, which a tracker removes in the end.
HOLD = """
import multiprocessing, time
held = multiprocessing.get_context("spawn").Semaphore()
print(held._semlock.name, flush=True)
time.sleep(600)
"""


@pytest.fixture
def holder():
    """(a process that holds a named semaphore, the semaphore's file)"""
    process = subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True)
    yield process, SHARED / f"sem.{process.stdout.readline().strip().removeprefix('/')}"
    process.kill()
    process.wait()


def test_semaphores_of_what_was_killed_go_with_it(holder):
    process, semaphore = holder
    assert semaphore.exists()
    started = with_descendants([psutil.Process(process.pid)])
    _, tracker = started
    while not any("resource_tracker" in word for word in tracker.cmdline()):  # it has just forked
        time.sleep(0.01)
    end(started, patience=0)
    assert not semaphore.exists()
    assert not any(one.is_running() and one.status() != "zombie" for one in started)


def test_a_process_that_ignores_its_end_is_killed():
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); print('', flush=True)"
    process = subprocess.Popen(
        [sys.executable, "-c", f"{code}; time.sleep(600)"], stdout=subprocess.PIPE
    )
    process.stdout.readline()
    os.kill(process.pid, signal.SIGTERM)
    began = time.monotonic()
    end([psutil.Process(process.pid)], patience=0.5)
    assert not psutil.pid_exists(process.pid)
    assert 0.5 <= time.monotonic() - began < 10
