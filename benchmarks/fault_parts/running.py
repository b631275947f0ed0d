"""A command that runs while something is done to it, and what it leaves behind.

In: arguments, a folder. Out: its process, its descendants by name, its output. Invariant: each
command has a temporary folder of its own and a mark in its environment, by which all that it
started is found again, whoever is its parent by then.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

from benchmarks.fault_parts.outcome import ROOT, WHOLE

MARK = "RNR_FAULT_MARK"
SHARED_MEMORY = Path("/dev/shm")
GOING_SECONDS = 60.0  # that processes may take to go once the command has ended
SLOWEST = 900.0  # seconds of a small run
LOCK = "lock"  # an empty file beside folders that several processes use in turn
# In the temporary folder: the logs of Ray's sessions, which `rnr clean` removes. What else is left
# of a session is left behind.
OWN_LOGS = re.compile(r"rnr-ray-\d+/ray/session_(latest|[^/]+/logs/.*)")


class NotMetError(RuntimeError):
    """What was waited for did not come: the fault could not be injected."""


class Running:
    """One command: `rnr ARGUMENTS`, in a session of its own.

    scratch: its temporary folder, which several commands in turn may share; left out: its own.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        cwd: Path,
        environment: Mapping[str, str] | None = None,
        scratch: Path | None = None,
    ):
        self.mark = uuid.uuid4().hex
        self._shares = scratch is not None
        self.scratch = scratch or short_folder()
        self.log = self.scratch.with_name(f"{self.scratch.name}-{self.mark[:6]}.log")
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
        settings = {
            **os.environ,
            **{"PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "RAY_USAGE_STATS_ENABLED": "0"},
            **{"TMPDIR": str(self.scratch), MARK: self.mark},
            **(environment or {}),
        }
        self._shared = _segments()
        command = [sys.executable, "-c", WHOLE, *arguments]
        with self.log.open("w", encoding="utf-8") as output:
            self.process = subprocess.Popen(
                command,
                cwd=cwd,
                env=settings,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # as a terminal's foreground group: Ctrl-C reaches all
            )

    @property
    def output(self) -> str:
        """All that it printed, with wrapped lines joined."""
        return " ".join(self.log.read_text(errors="replace", encoding="utf-8").split())

    def of_name(self, *names: str) -> list[psutil.Process]:
        """What it started and still runs under such a name."""
        return [one for one in marked(self.mark) if any(name in _title(one) for name in names)]

    def wait_for(self, condition: Callable[[], object], what: str, seconds: float = 600) -> None:
        """Until the condition holds. Raises NotMetError where the command ends before it does."""
        deadline = time.monotonic() + seconds
        while not condition():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise NotMetError(f"{what}: not met; {self.output[-600:]}")
            time.sleep(0.2)

    def kill(self, *names: str) -> None:
        """SIGKILL one process of such a name."""
        self.wait_for(lambda: self.of_name(*names), f"a process {' or '.join(names)}")
        with contextlib.suppress(psutil.NoSuchProcess):
            self.of_name(*names)[0].kill()

    def press(self, number: signal.Signals) -> float:
        """Send a signal to the whole group, as a terminal does; seconds until it has ended."""
        began = time.monotonic()
        os.killpg(self.process.pid, number)
        self.end(SLOWEST)
        return time.monotonic() - began

    def end(self, seconds: float = SLOWEST) -> int | None:
        """Its exit code once it has ended; None where it had to be ended."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.clear()
            return None

    def left_behind(self, files: bool = True) -> list[str]:
        """Processes (with the ports that they hold), shared memory, temporary `files`."""
        deadline = time.monotonic() + GOING_SECONDS
        while (left := marked(self.mark)) and time.monotonic() < deadline:
            time.sleep(0.5)
        found = [f"process {_title(one)[:60]}" for one in left]
        found += [f"shared memory {one.name}" for one in _unused(_segments() - self._shared)]
        if files:
            found += [f"file {one.relative_to(self.scratch)}" for one in self._files()]
        return found

    def _files(self) -> list[Path]:
        """Entries of the temporary folder that are no empty folder, no lock and no logs: of Ray's
        folder each file, elsewhere the uppermost ones."""
        found = set()
        for path in self.scratch.rglob("*"):
            within = path.relative_to(self.scratch)
            if (path.is_dir() and not path.is_symlink()) or OWN_LOGS.fullmatch(within.as_posix()):
                continue
            first = within.parts[0]
            if not first.endswith(".lock") and path.name != LOCK:
                found.add(path if first.startswith("rnr-ray-") else self.scratch / first)
        return sorted(found)

    def clear(self) -> None:
        """End what is left of it; remove its log, and the temporary folder if that is its own."""
        for one in marked(self.mark):
            with contextlib.suppress(psutil.Error):
                one.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(10)
        self.log.unlink(missing_ok=True)
        if not self._shares:
            shutil.rmtree(self.scratch, ignore_errors=True)


def short_folder() -> Path:
    """A temporary folder with a short path: Ray's sockets lie below."""
    return Path(tempfile.mkdtemp(prefix="rnf-", dir="/tmp"))


def marked(mark: str) -> list[psutil.Process]:
    """Processes that carry a mark in their environment; a zombie does not run."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if (
                process.pid != os.getpid()
                and process.status() != psutil.STATUS_ZOMBIE
                and process.environ().get(MARK) == mark
            ):
                found.append(process)
    return found


def _title(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def _segments() -> set[Path]:
    return set(SHARED_MEMORY.iterdir()) if SHARED_MEMORY.exists() else set()


def _unused(segments: set[Path]) -> list[Path]:
    """Those that no living process has mapped or open: others may have made theirs meanwhile."""
    used = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            used |= {Path(one.path) for one in process.memory_maps() if "/dev/shm" in one.path}
            used |= {Path(one.path) for one in process.open_files() if "/dev/shm" in one.path}
    return sorted(segment for segment in segments if segment not in used and segment.exists())
