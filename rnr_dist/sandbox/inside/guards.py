"""What a process gives up for good before a program of unknown intent runs in it.

In: limits, a compiled system call filter, paths. Out: nothing; the process has less. Invariant:
none of it can be undone by the process itself; what the kernel refuses to give up is raised.
"""

from __future__ import annotations

import ctypes
import os
import resource
import struct

TYPE_CHECKING = False  # `typing` takes longer to load than a small program to run
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

NO_NEW_PRIVILEGES, DEATH_SIGNAL, SECCOMP, FILTER = 38, 1, 22, 2  # of prctl
KILL = 9
LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT = 444, 445, 446  # the same on all machines
LANDLOCK_VERSION, BENEATH = 1, 1
READ_FILE, READ_FOLDER = 1 << 2, 1 << 3
# Rights over files that Landlock's versions know: 13 at first, then linking across folders,
# truncating, and control of devices.
RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}


def limit(cpu: int, memory: int, file: int) -> None:
    """Limits of CPU (seconds), memory and size of a file (bytes); no more processes, no core."""
    for kind, most in (
        (resource.RLIMIT_CPU, cpu),
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, file),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_MEMLOCK, 0),
    ):
        resource.setrlimit(kind, (most, most))


def end_with(parent: int) -> None:
    """The process is killed once its parent ends, however that ends."""
    _called(_libc().prctl(DEATH_SIGNAL, KILL, 0, 0, 0), "die with the parent")
    if os.getppid() != parent:  # it has ended already
        os._exit(0)


def refuse_calls(program: bytes) -> None:
    """Install a seccomp filter (BPF) for this process and all of its threads."""
    libc = _libc()
    code = ctypes.create_string_buffer(program, len(program))
    # struct sock_fprog: a count of 8-byte instructions, padding, a pointer.
    told = ctypes.create_string_buffer(
        struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(code))
    )
    _called(libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0), "give up privileges")
    _called(libc.prctl(SECCOMP, FILTER, told, 0, 0), "install a seccomp filter")


def landlock_version() -> int:
    """Which version of Landlock the kernel has; 0 for none."""
    return max(0, _libc().syscall(LANDLOCK_CREATE, None, 0, LANDLOCK_VERSION))


def see_only(readable: Sequence[str], listed: Sequence[str]) -> None:
    """From now on no file is seen but `readable` and what lies beneath, and of the folders `listed`
    the names in them; nothing is written (Landlock)."""
    version = landlock_version()
    handled = RIGHTS[max(known for known in RIGHTS if known <= version)]
    libc = _libc()
    rules = libc.syscall(LANDLOCK_CREATE, struct.pack("Q", handled), 8, 0)
    _called(rules, "make a Landlock ruleset")
    for path in readable:
        _allow(libc, rules, path, READ_FILE | READ_FOLDER)
    for path in listed:
        _allow(libc, rules, path, READ_FOLDER)
    _called(libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0), "give up privileges")
    _called(libc.syscall(LANDLOCK_RESTRICT, rules, 0), "install Landlock's rules")
    os.close(rules)


def _allow(libc: Any, rules: int, path: str, rights: int) -> None:
    if not os.path.isdir(path):  # noqa: PTH112 (pathlib takes longer to load than a check)
        rights &= READ_FILE
    opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
    rule = struct.pack("=Qi", rights, opened)
    _called(libc.syscall(LANDLOCK_ADD, rules, BENEATH, rule, 0), f"allow {path}")
    os.close(opened)


def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


def _called(found: int, what: str) -> None:
    if found < 0:
        raise OSError(f"the kernel would not {what}: {os.strerror(ctypes.get_errno())}")
