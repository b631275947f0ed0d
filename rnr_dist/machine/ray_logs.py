"""Where Ray on this machine keeps its sessions (logs, sockets), and which of them are over.

Invariant: the folder is this user's alone; a session counts as over once the process that started
it, whose number ends its name, lives no more.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from pathlib import Path

import psutil

from rnr_dist.run.private import private_folder

SESSION = re.compile(r"session_[\d-]+_[\d-]+_\d+_(\d+)")
KEPT_SECONDS = 24 * 3600.0  # that logs of a run which failed or was killed are there to be read


def ray_folder() -> Path:
    """Made where it is not there: Ray opens its own to everybody, whatever it was before."""
    return private_folder(_above()) / "ray"


def over_sessions(kept_seconds: float = 0.0) -> list[Path]:
    """Sessions that are over and were begun so long ago."""
    found = []
    for path in sorted((_above() / "ray").glob("session_*")):
        named = SESSION.fullmatch(path.name)
        if not named or path.is_symlink() or path.stat().st_uid != os.getuid():
            continue
        old = time.time() - path.stat().st_mtime >= kept_seconds
        if old and not psutil.pid_exists(int(named[1])):
            found.append(path)
    return found


def remove_old_sessions() -> None:
    """Those that nobody is going to look at any more."""
    for path in over_sessions(KEPT_SECONDS):
        shutil.rmtree(path, ignore_errors=True)


def _above() -> Path:
    above = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    return Path(above).absolute() / f"rnr-ray-{os.getuid()}"
