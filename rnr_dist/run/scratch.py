"""Temporary files of one process, in a private folder that can be found when it was killed.

Out: a folder on this machine's temporary disk. Invariant: a folder of this name is locked as long
as its process lives; `sweep` removes those that nobody holds.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from pathlib import Path

PREFIX = "rnr-scratch-"


class Scratch:
    """A folder that only this user may enter; `remove` it, or leave that to `sweep`."""

    def __init__(self) -> None:
        # It gets its name once it is locked, so that nobody sweeps it away between the two.
        made = Path(tempfile.mkdtemp(prefix=f".{PREFIX}"))
        self._handle = os.open(made, os.O_RDONLY)
        fcntl.flock(self._handle, fcntl.LOCK_EX)
        self.path = made.rename(made.with_name(made.name.removeprefix(".")))

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._handle)


def sweep() -> int:
    """Remove what killed processes of this user have left here; how many folders that were."""
    removed = 0
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        try:
            handle = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY)
        except OSError:  # gone by now, or no folder of ours
            continue
        try:
            if os.fstat(handle).st_uid == os.getuid():
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
                removed += 1
        except BlockingIOError:  # its process lives
            pass
        finally:
            os.close(handle)
    return removed
