"""Commands that are told to end: exit code, how to go on, and nothing left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from ray.exceptions import ActorDiedError, RayTaskError
from ray.train import ControllerError, WorkerGroupError
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback

from rnr_dist.commands.cli import guarded
from rnr_dist.errors import InputError, LostError, told_in
from rnr_dist.generate.pool import EngineDiedError
from rnr_dist.machine.ending import ENDING, going_on
from rnr_dist.machine.processes import own_signals

ROOT = Path(__file__).parents[2]
COMMAND = """
import signal, subprocess, sys, threading, time
from rnr_dist.commands import cli
from rnr_dist.machine import ending
ending.GRACE_SECONDS = 1.5

def quiet():
    time.sleep(60)
def deaf():
    while True:
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            print("heard", flush=True)
def taken():
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    deaf()
def breaks():
    try:
        time.sleep(60)
    finally:
        raise RuntimeError("what was to be ended is gone")

def command(*arguments, **named):
    # A process whose parent has ended, as a Ray worker's when the node was killed.
    asked = ["sh", "-c", "sleep 100 >/dev/null 2>&1 & echo $!"]
    with ending.going_on("rnr", "run", "my config.yaml", "--resume", "mine"):
        left = subprocess.run(asked, stdout=subprocess.PIPE, text=True).stdout.strip()
        threading.Timer(0.3, lambda: print(left, flush=True)).start()
        globals()[sys.argv[1]]()

cli.app = command
cli.main()
"""
GO_ON = "go on with: rnr run 'my config.yaml' --resume mine"


@pytest.fixture
def command():
    """Starts a command of the script; it has begun, and the process that it left is the second."""
    started = []

    def start(body, interrupt=signal.SIG_DFL):  # tests may run where it is ignored
        process = subprocess.Popen(
            [sys.executable, "-c", COMMAND, body],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, interrupt),
        )
        left = psutil.Process(int(process.stdout.readline()))
        started.extend([process, left])
        return process, left

    yield start
    for process in started:
        if process.poll() is None if isinstance(process, subprocess.Popen) else alive(process):
            process.kill()


def alive(process):
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


CALLS = [(signal.SIGINT, 130), (signal.SIGTERM, 143)]


@pytest.mark.parametrize(("number", "code"), CALLS)
@pytest.mark.parametrize("body", ["quiet", "breaks"])
def test_one_signal_ends_with_its_code_and_says_how_to_go_on(command, body, number, code):
    process, left = command(body)
    process.send_signal(number)
    _, told = process.communicate(timeout=20)
    assert process.returncode == code, told
    assert " ".join(told.split()).count(GO_ON) == 1
    assert "Traceback" not in told
    assert not alive(left)


@pytest.mark.parametrize(("number", "code"), CALLS)
@pytest.mark.parametrize("body", ["deaf", "taken"])
def test_what_swallows_a_signal_is_killed_with_all_that_it_started(command, body, number, code):
    process, left = command(body)
    assert alive(left)
    process.send_signal(number)
    _, told = process.communicate(timeout=20)
    assert process.returncode == code, told
    assert GO_ON in " ".join(told.split())
    assert not alive(left)


def test_a_second_signal_ends_at_once(command):
    process, left = command("deaf")
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "heard\n"
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == 143
    assert time.monotonic() - began < 1.4  # less than it would have had
    assert not alive(left)


def test_an_ignored_signal_stays_ignored(command):
    process, _ = command("quiet", signal.SIG_IGN)  # as for a background job of a shell
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == 143


def test_handlers_of_a_library_hold_for_its_block_alone():
    before = {number: signal.getsignal(number) for number, _ in CALLS}
    with own_signals():
        for number in before:
            signal.signal(number, lambda *_: None)
    assert {number: signal.getsignal(number) for number in before} == before


# Errors of other processes


def by_ray(error, times=1):
    for _ in range(times):
        error = RayTaskError("run", "Traceback of pages\n" * 40, error).as_instanceof_cause()
    return error


BAD = InputError("task.forget: found nothing, expected texts")


@pytest.mark.parametrize(
    "error",
    [
        BAD,
        by_ray(BAD),
        by_ray(BAD, times=3),
        WorkerGroupError("failed", {0: RuntimeError("x"), 1: UserExceptionWithTraceback(BAD, "t")}),
        ControllerError(by_ray(BAD)),
    ],
)
def test_bad_input_of_another_process_is_its_sentence(error, capsys):
    def command():
        raise error

    assert guarded(command) == 2
    assert capsys.readouterr().err == f"rnr: {BAD}\n"
    assert told_in(error, LostError) is None


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (by_ray(EngineDiedError("no generator is left")), "rnr: no generator is left\n"),
        (by_ray(ActorDiedError()), "rnr: Ray has lost a process or a node (ActorDiedError: The"),
    ],
)
def test_what_a_run_has_lost_is_a_sentence_and_how_to_go_on(error, expected, capsys):
    def command():
        with going_on("rnr", "run", "config.yaml", "--resume", "mine"):
            raise error

    assert guarded(command) == 1
    told = capsys.readouterr().err
    assert told.startswith(expected)
    assert "go on with: rnr run config.yaml --resume mine" in " ".join(told.split())
    ENDING.go_on = ""


def test_a_fault_of_ours_keeps_its_trace_also_from_another_process():
    def command():
        raise by_ray(ZeroDivisionError("ours"))

    with pytest.raises(ZeroDivisionError):
        guarded(command)
