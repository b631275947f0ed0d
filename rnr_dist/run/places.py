"""Places that something is written to, before anything is computed for them.

In: a folder, or nothing. Out: the same folder, or one InputError. Invariant: nothing is made here,
so a check leaves no trace.
"""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

from rnr_dist.errors import InputError

LONGEST_SOCKET = 107  # bytes of a socket's path on Linux
# What Ray puts behind the temporary folder for the longest of its sockets.
RAY_SOCKET = (
    f"/rnr-ray-{os.getuid()}/ray/session_2000-01-01_00-00-00_000000_4194304/sockets/plasma_store"
)
CACHE_DIR = "RNR_CACHE_DIR"


def require_writable(folder: Path, called: str) -> None:
    """Raises InputError, which `called` begins, where nothing can be written into a folder, be it
    there or still to be made."""
    whole = folder.absolute()
    try:
        nearest = next(path for path in (whole, *whole.parents) if path.exists())
        if not nearest.is_dir():
            reason = f"{nearest} is a file"
        elif not os.access(nearest, os.W_OK | os.X_OK):
            reason = f"{nearest} is closed to writing"
        else:
            return
    except OSError as error:  # a name that is too long, a folder that may not be looked into
        reason = error.strerror or str(error)
    raise InputError(f"{called}: {folder} cannot be written to ({reason}); expected one that can")


def cache_folder() -> Path:
    """Where what is made once for all runs of a user is kept: RNR_CACHE_DIR, or the user's own."""
    named = os.environ.get(CACHE_DIR) or platformdirs.user_cache_dir("rnr_dist")
    try:
        return Path(named).expanduser().absolute()
    except RuntimeError as error:  # ~NAME of nobody
        raise InputError(f"{CACHE_DIR}: found {named} ({error}); expected a folder") from error


def require_cache() -> None:
    """Raises InputError where the cache folder cannot be written to."""
    require_writable(cache_folder(), CACHE_DIR if os.environ.get(CACHE_DIR) else "the cache folder")


def check_temporary_folder() -> None:
    """Raises InputError where the folder that Ray keeps its sockets in is closed, or its name too
    long for them."""
    name = next((name for name in ("RAY_TMPDIR", "TMPDIR") if name in os.environ), "TMPDIR")
    folder = os.environ.get(name, "/tmp")
    require_writable(Path(folder), name)
    most = LONGEST_SOCKET - len(RAY_SOCKET)
    if len(os.fsencode(folder)) > most:
        raise InputError(
            f"{name}: found {folder} of {len(os.fsencode(folder))} bytes; expected at most {most}, "
            f"so that the paths of Ray's sockets keep to {LONGEST_SOCKET}"
        )
