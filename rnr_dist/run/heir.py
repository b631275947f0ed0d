"""What children of this process leave when they die, and who clears it away.

In: groups of processes. Out: nothing. Invariant: who becomes an heir reaps what it inherits, since
an ended process that nobody reaps keeps its number, of which a machine has some ten thousand.
"""

from __future__ import annotations

import contextlib
import ctypes
import os

SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER of Linux' prctl


def become_heir() -> None:
    """From now on, what a child of this process leaves when it dies is a child of this one."""
    with contextlib.suppress(AttributeError, OSError):  # no Linux: they go to the first process
        ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)


def reap_group(group: int) -> None:
    """Wait for all children of this process in a group whose leader is reaped already.

    The kernel gives numbers in turn, so that nobody else's group has this one meanwhile.
    """
    with contextlib.suppress(ChildProcessError):  # there is none, or no more
        while True:
            os.waitid(os.P_PGID, group, os.WEXITED)
