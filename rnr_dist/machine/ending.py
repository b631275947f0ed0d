"""How a command ends before its end: by Ctrl-C with 130, by SIGTERM with 143, and how to go on.

Invariant: one signal ends any phase within `GRACE_SECONDS`, in good order where that is quick
enough, else by killing all that the command has started; a second signal kills at once, and so does
the death of what Ray cannot do without.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

import psutil

from rnr_dist.config.secrets import typed
from rnr_dist.machine.processes import end, with_descendants
from rnr_dist.machine.semaphores import remove_orphans
from rnr_dist.run.heir import become_heir
from rnr_dist.run.scratch import sweep

GRACE_SECONDS = 12.0  # for generators, Ray and MLflow; a user shall wait 15 s at most
CALLED = {signal.SIGINT: "interrupted", signal.SIGTERM: "told to end"}


class Ending:
    """What a process knows of its end. `here`: whether a command runs, within `signals_end`.
    `signal`: the first one that came, 0 before. `go_on`: the command that goes on with what it
    does, "" where none does."""

    here: bool = False
    signal: int = 0
    go_on: str = ""

    def __init__(self) -> None:
        self._leaving = threading.Lock()

    @property
    def code(self) -> int:
        """Exit code of a command that a signal, or an interrupt without one, has ended."""
        return 128 + (self.signal or signal.SIGINT)

    def tell(self) -> None:
        """Say how to go on."""
        from rnr_dist.run.progress import say

        if self.go_on:
            say(f"what is finished is kept; go on with: {self.go_on}")

    def at_once(self, code: int, why: str = "") -> NoReturn:
        """Say why and how to go on, kill all that this process has started, and end it."""
        from rnr_dist.run.progress import say

        self._leaving.acquire()  # for good: what is killed is noticed by others who would end it
        if why:
            say(why)
        self.tell()
        kill_all()
        leave(code)


ENDING = Ending()  # of this process


@contextlib.contextmanager
def going_on(*command: object) -> Iterator[None]:
    """Where something ends the block early, `command` goes on with it; an interrupt says so."""
    ENDING.go_on = typed(*command)
    try:
        yield
    except KeyboardInterrupt:
        ENDING.tell()
        raise
    ENDING.go_on = ""


@contextlib.contextmanager
def signals_end() -> Iterator[None]:
    """Within the block SIGINT and SIGTERM raise KeyboardInterrupt in the main thread.

    A thread learns of them too, whatever the main thread does and whichever handler a library has
    installed: it sees to it that the process ends in time.
    """
    told, tell = socket.socketpair()
    tell.setblocking(False)
    threading.Thread(target=_watch, args=(told,), daemon=True).start()
    wakeup = signal.set_wakeup_fd(tell.fileno(), warn_on_full_buffer=False)
    # What is ignored stays so: a shell's background jobs ignore Ctrl-C.
    heard = [number for number in CALLED if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, _interrupt) for number in heard}
    become_heir()
    ENDING.here = True
    try:
        yield
    finally:
        ENDING.here = False
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(wakeup)
        tell.close()


def _interrupt(number: int, frame: FrameType | None) -> None:
    if not ENDING.signal:
        ENDING.signal = number
        raise KeyboardInterrupt


def _watch(told: socket.socket) -> None:
    """Runs in a thread: the first signal starts the clock, the clock or a second one kills."""
    from rnr_dist.run.progress import say

    with told:
        first = _next_signal(told)
        if not first:
            return
        say(f"{CALLED[first]}: ending generators and Ray; once more ends them at once")
        told.settimeout(GRACE_SECONDS)
        with contextlib.suppress(TimeoutError):
            if not _next_signal(told):
                return
    ENDING.at_once(128 + first)


def _next_signal(told: socket.socket) -> signal.Signals | None:
    """The next signal that ends a command; None when the block has ended before."""
    while came := told.recv(1):
        if came[0] in CALLED:
            return signal.Signals(came[0])
    return None


def kill_all() -> None:
    """Kill all that this process has started, and remove the files of what was killed."""
    end(with_descendants(psutil.Process().children()), patience=0)
    sweep()
    remove_orphans()


def leave(code: int) -> NoReturn:
    """End this process now: threads of libraries may wait for a Ray that is gone for ever."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
