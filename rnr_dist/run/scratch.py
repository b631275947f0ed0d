"""Temporary files of a process, in private folders that can be found when it was killed.

Out: a folder on this machine's temporary disk. Invariant: a folder of this name is locked as long
as its process lives; `sweep` removes those that nobody holds, and of Ray's sessions that are over
all but the logs.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import tempfile
from pathlib import Path

import psutil

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
    """Remove what killed processes of this user have left here; how many folders that were.

    Of Ray's sessions that are over, those of this process among them, only the logs stay.
    """
    for session in ended_sessions():
        _keep_logs(session)
    return len(swept(dry=False))


def swept(dry: bool) -> list[tuple[Path, int]]:
    """The scratch folders that nobody holds, with the bytes in them; removed. dry: only found."""
    found = []
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        try:
            handle = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY)
        except OSError:  # gone by now, or no folder of ours
            continue
        try:
            if os.fstat(handle).st_uid == os.getuid():
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                found.append((folder, folder_bytes(folder)))
                if not dry:
                    shutil.rmtree(folder, ignore_errors=True)
        except BlockingIOError:  # its process lives
            pass
        finally:
            os.close(handle)
    return found


def ray_folder() -> Path:
    """What Ray's logs and sockets lie below, in a folder of this user alone."""
    above = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    return Path(above).absolute() / f"rnr-ray-{os.getuid()}"


def ended_sessions() -> list[Path]:
    """Ray's sessions here whose driver is gone, or is this process, and whom nobody listens for.

    A session's name ends with the number of the process that has started it.
    """
    found = []
    for session in sorted(ray_folder().glob("ray/session_*_*")):
        if session.is_symlink() or session.lstat().st_uid != os.getuid():
            continue
        driver = session.name.rsplit("_", 1)[-1]
        gone = driver.isdigit() and (
            int(driver) == os.getpid() or not psutil.pid_exists(int(driver))
        )
        # The number alone says nothing of another container with the same temporary folder.
        if gone and not any(map(listened_at, session.glob("sockets/*"))):
            found.append(session)
    return found


def listened_at(path: Path) -> bool:
    """Whether a process takes connections at a socket of this machine."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(1.0)
        try:
            return client.connect_ex(str(path)) == 0
        except OSError:  # no path that anyone could listen at, or none who answers
            return False


def _keep_logs(session: Path) -> None:
    for path in session.iterdir():
        if path.is_dir() and not path.is_symlink():
            if path.name != "logs":
                shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def folder_bytes(folder: Path) -> int:
    """What the files in a folder take, links themselves and not what they lead to."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())
