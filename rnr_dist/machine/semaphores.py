"""Named semaphores of processes that were killed together with who would have removed them.

Ray kills the children of a worker that has died, Python's tracker of semaphores among them, so what
the worker had made stays in shared memory. Invariant: only those of this user are removed whose
name says a process that lives no more.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

import psutil

FOLDER = Path("/dev/shm")  # Linux; elsewhere nothing is found
NAME = re.compile(r"sem\.loky-(\d+)-\w+")  # as joblib names them, and through it multiprocessing


def orphans() -> list[Path]:
    """Semaphores of this user without the process that made them."""
    found = []
    for path in sorted(FOLDER.glob("sem.loky-*")):
        named = NAME.fullmatch(path.name)
        with contextlib.suppress(OSError):  # gone by now
            ours = path.lstat().st_uid == os.getuid()
            if named and ours and not psutil.pid_exists(int(named[1])):
                found.append(path)
    return found


def remove_orphans() -> int:
    """Remove them; how many that were."""
    found = orphans()
    for path in found:
        with contextlib.suppress(OSError):
            path.unlink()
    return len(found)
