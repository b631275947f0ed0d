"""One driver at a time in a folder: a lock that the kernel gives up when its process ends.

In: the folder of a run or a study. Out: nobody else holds it during a block. Invariant: a lock does
not outlive its holder, however that ended; a note in the folder says who holds it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from rnr_dist.errors import InputError

LOCK_NOTE = ".lock"  # in the folder, while it is held: who holds it
# What a file system says that knows no such locks; there the note alone tells.
UNSUPPORTED = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)


@contextlib.contextmanager
def held(*folders: Path) -> Iterator[None]:
    """Hold these folders, which are made when missing, for the block.

    Raises InputError that names the holder where there is one, also one on another machine that
    was ended without a chance to say so, and where a folder cannot be made or written to.
    """
    with contextlib.ExitStack() as stack:
        for folder in folders:
            stack.enter_context(_held(folder))
        yield


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    made = not folder.exists()
    path, handle = folder / LOCK_NOTE, _taken(folder)
    try:
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        note = {"host": socket.gethostname(), "pid": os.getpid(), "since": since}
        os.truncate(handle, 0)
        os.pwrite(handle, json.dumps(note).encode(), 0)
        yield
    finally:
        # Taken away while it is locked: whoever has opened this file finds that it is no more.
        path.unlink(missing_ok=True)
        os.close(handle)
        if made:
            with contextlib.suppress(OSError):  # the block has put something into it
                folder.rmdir()


def _taken(folder: Path) -> int:
    """A descriptor of the note's file, locked. Children that are executed do not inherit it."""
    path = folder / LOCK_NOTE
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except (FileExistsError, NotADirectoryError):
            raise InputError(f"{folder}: is a file; expected an unused directory") from None
        except OSError as error:
            raise InputError(
                f"{folder}: cannot be made or written to ({error.strerror}); expected a place to "
                "write to"
            ) from error
        try:
            _lock(folder, handle)
            # Another holder may have ended, and taken its file away, between the two calls.
            if path.exists() and os.path.samestat(os.fstat(handle), path.stat()):
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _lock(folder: Path, handle: int) -> None:
    """Lock the note's file, or raise InputError."""
    shared = True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(
            f"{folder}: {_told(_note(handle))} works on it; expected no other driver: wait until "
            "it has ended, or end it"
        ) from None
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        shared = False
    note = _note(handle)
    if not note:
        return
    here = note.get("host") == socket.gethostname()
    # Of this machine and not locked: it was killed. Of another one: only people can know.
    if not here or (not shared and psutil.pid_exists(int(note.get("pid", 0)))):
        raise InputError(
            f"{folder}: {_told(note)} began to work on it and has not said that it ended; expected "
            f"no other driver: if that process is gone, delete {folder / LOCK_NOTE}"
        )


def _note(handle: int) -> dict[str, Any]:
    """What the holder has written; empty where it had no time to, or left nothing."""
    try:
        content = json.loads(os.pread(handle, 4096, 0))
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _told(note: dict[str, Any]) -> str:
    if not note:
        return "another process"
    return f"process {note.get('pid')} on {note.get('host')} (since {note.get('since')})"
