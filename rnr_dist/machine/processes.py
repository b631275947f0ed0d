"""What libraries take from a driver, given back: its signals, and the processes they started.

Invariant: after a block handlers of signals are those of before; of the processes that are to end
none runs.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence

import psutil

SIGNALS = (signal.SIGINT, signal.SIGTERM)
NODE = ("raylet", "gcs_server")  # Ray cannot do without; all workers descend from the first
GONE_SECONDS = 2.0  # for a process to end by itself once its node has
TRACKER_SECONDS = 10.0  # for a tracker to clear up after the killed, on a machine that is busy


@contextlib.contextmanager
def own_signals() -> Iterator[None]:
    """Handlers of signals that the block installs hold for the block alone.

    `ray.init` makes SIGTERM an exit in the midst of whatever runs, which ends in a core dump.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # no other thread can install one
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:  # None: one that is not Python's
                signal.signal(number, handler)


def nodes() -> set[psutil.Process]:
    """The processes of Ray nodes that this process has started."""
    found = set()
    for process in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            if process.name() in NODE:
                found.add(process)
    return found


def watch(processes: Iterable[psutil.Process], died: Callable[[str], None]) -> Callable[[], None]:
    """Call `died`, in a thread, with the name of a child that ends. Returns what ends this."""
    over = threading.Event()

    def wait(process: psutil.Process) -> None:
        with contextlib.suppress(psutil.Error, ChildProcessError):
            name = process.name()
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # Ray itself reaps it
            if not over.is_set():
                died(name)

    for process in processes:
        threading.Thread(target=wait, args=(process,), daemon=True).start()
    return over.set


def with_descendants(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """These processes and all that they, and theirs, have started."""
    found = []
    for process in processes:
        with contextlib.suppress(psutil.Error):
            found += [process, *process.children(recursive=True)]
    return found


def end(processes: Sequence[psutil.Process], patience: float = GONE_SECONDS) -> None:
    """Wait for these to end, then kill those that have not; returns once they are gone."""
    _, alive = psutil.wait_procs(processes, timeout=patience)
    # Trackers end by themselves, once they have removed the semaphores of those that were killed.
    for left in ([process for process in alive if not _tracks(process)], alive):
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(alive, timeout=TRACKER_SECONDS)


def _tracks(process: psutil.Process) -> bool:
    """Whether it is the process with which Python's multiprocessing tracks named semaphores."""
    with contextlib.suppress(psutil.Error):
        return any("resource_tracker" in word for word in process.cmdline())
    return False
