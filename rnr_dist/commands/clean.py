"""`rnr clean`: what runs that ended have left on this machine, removed.

In: the folder of the runs. Out: a line for each thing, with its size. Invariant: nothing that a
living process uses is touched, and nothing of another user's; a run directory loses only an empty
spool.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import socket
import stat
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rnr_dist.machine.semaphores import orphans
from rnr_dist.run.lock import LOCK_NOTE
from rnr_dist.run.scratch import ended_sessions, folder_bytes, swept
from rnr_dist.run.tracking import SPOOL
from rnr_dist.weights.node_cache import KINDS, clean, node_folder

# vLLM's engines and their clients meet at sockets that are called like this.
ENGINE_SOCKET = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
# Many and small: told by their number.
COUNTED = {
    "socket": "socket(s) without a listener",
    "semaphore": "semaphore(s) of killed processes",
}
YOUNG_SECONDS = 60.0  # a socket may be bound some time before someone listens


@dataclass(frozen=True)
class Left:
    """One thing that was left behind; kept: why it stays, "" where it goes."""

    path: Path
    what: str
    size: int = 0
    kept: str = ""


def clean_machine(runs: Path, dry: bool) -> list[Left]:
    """Remove what is left of merged checkpoints, sockets, scratch, semaphores, Ray's sessions and
    spools; all of it, and what stays.

    dry: only find it.
    """
    return [
        *_caches(dry),
        *_sockets(dry),
        *(Left(folder, "scratch of a killed process", size) for folder, size in swept(dry)),
        *_semaphores(dry),
        *_sessions(dry),
        *_spools(runs, dry),
    ]


def told(found: list[Left], dry: bool) -> list[str]:
    """A line for each, and a last one on how much it is."""
    lines = [
        f"{_size(one.size):>10} {one.what} {one.path}" + (f": {one.kept}" if one.kept else "")
        for one in found
        if one.what not in COUNTED
    ]
    for what, told_of in COUNTED.items():
        if count := sum(one.what == what for one in found):
            lines.append(f"{_size(0):>10} {count} {told_of}")
    gone = [one for one in found if not one.kept]
    verb = "would be removed" if dry else "removed"
    return [*lines, f"{_size(sum(one.size for one in gone))} in {len(gone)} places {verb}"]


def _caches(dry: bool) -> Iterator[Left]:
    for kind in KINDS:
        cache = node_folder(kind)
        size = clean(cache, dry)
        if size is None:
            yield Left(cache, f"merged {kind}", kept="in use by a living process")
        elif size:
            yield Left(cache, f"merged {kind}", size)


def _sessions(dry: bool) -> Iterator[Left]:
    """Logs, and what else is there, of Ray's sessions whose command has ended."""
    for session in ended_sessions():
        size = folder_bytes(session)
        if not dry:
            shutil.rmtree(session, ignore_errors=True)
        yield Left(session, "ended session of Ray", size)


def _semaphores(dry: bool) -> Iterator[Left]:
    for path in orphans():
        if not dry:
            path.unlink(missing_ok=True)
        yield Left(path, "semaphore")


def _sockets(dry: bool) -> Iterator[Left]:
    """Sockets of engines in the temporary folder, at which nobody listens any more."""
    for path in sorted(Path(tempfile.gettempdir()).iterdir()):
        if ENGINE_SOCKET.fullmatch(path.name) and _is_dead(path):
            if not dry:
                path.unlink(missing_ok=True)
            yield Left(path, "socket")


def _is_dead(path: Path) -> bool:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return False
    if not stat.S_ISSOCK(found.st_mode) or found.st_uid != os.getuid():
        return False
    if time.time() - found.st_mtime < YOUNG_SECONDS:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(1.0)
        try:
            return client.connect_ex(str(path)) == errno.ECONNREFUSED
        except OSError:  # no path that anyone could listen at
            return False


def _spools(runs: Path, dry: bool) -> Iterator[Left]:
    """Spools of which MLflow has every entry."""
    for path in sorted(runs.glob(f"**/{SPOOL}")):
        driven = path.with_name(LOCK_NOTE).exists()
        if path.is_file() and path.stat().st_size == 0 and not driven:
            if not dry:
                path.unlink(missing_ok=True)
            yield Left(path, "sent spool")


def _size(count: int) -> str:
    return f"{count / 2**20:.1f} MiB"
