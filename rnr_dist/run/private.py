"""Folders in shared places, such as the temporary folder, that only this user may enter.

In: a path. Out: the folder. Invariant: what another user made under that name, or could have
written into, is refused and never used.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from rnr_dist.errors import InputError

OWNER_ONLY = 0o700


def private_folder(path: Path) -> Path:
    """`path`, made if it is not there, closed to everyone else.

    Raises InputError where it is no folder, is another user's, or was open to be written to.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.mkdir(mode=OWNER_ONLY)
    except FileExistsError:
        _require_own(path)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be made ({error.strerror}); expected a temporary folder to write to, "
            "which TMPDIR names"
        ) from error
    return path


def _require_own(path: Path) -> None:
    found = path.lstat()  # a link may lead to another user's folder
    others = stat.S_IMODE(found.st_mode) & ~OWNER_ONLY
    wrong = None
    if not stat.S_ISDIR(found.st_mode):
        wrong = "something that is no folder"
    elif found.st_uid != os.getuid():
        wrong = f"a folder of the user {found.st_uid}"
    elif others & (stat.S_IWGRP | stat.S_IWOTH):
        wrong = "a folder that others may write to"
    if wrong:
        raise InputError(
            f"{path}: found {wrong}; expected one that you alone may enter: remove it, or set "
            "TMPDIR to a folder of your own"
        )
    if others:  # as made by earlier versions: nobody else can have written there
        path.chmod(OWNER_ONLY)
