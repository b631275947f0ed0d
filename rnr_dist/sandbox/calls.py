"""System calls that a program in the sandbox is denied, as a filter that the kernel runs.

In: nothing. Out: BPF. Invariant: everything is made from one list, whatever the layer; a call of
another architecture than the machine's own ends the process.
"""

from __future__ import annotations

import errno
import os
import tempfile
from functools import cache
from itertools import chain
from typing import Any

DENIED = {
    "processes and threads": ("fork", "vfork", "clone", "execve", "execveat"),
    "the network": ("socket", "socketpair"),
    "rings, by which all the others could be made": ("io_uring_setup", "io_uring_enter"),
    "other processes": (
        *("kill", "tkill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "pidfd_open"),
        *("pidfd_send_signal", "pidfd_getfd", "ptrace", "process_vm_readv", "process_vm_writev"),
        *("process_madvise", "kcmp", "setpriority", "ioprio_set", "sched_setaffinity"),
    ),
    "leaving its group or changing what holds it": (
        *("setsid", "setpgid", "prctl", "setrlimit", "seccomp", "unshare", "setns", "chroot"),
        *("pivot_root", "personality", "capset", "setuid", "setgid", "setreuid", "setregid"),
        *("setresuid", "setresgid", "setgroups"),
    ),
    "mounts and devices": (
        *("mount", "umount2", "move_mount", "open_tree", "fsopen", "fsconfig", "fsmount"),
        *("fspick", "mount_setattr", "mknod", "mknodat", "swapon", "swapoff", "quotactl"),
        *("open_by_handle_at", "name_to_handle_at", "fanotify_init"),
    ),
    "memory that outlives it": (
        *("shmget", "shmat", "msgget", "semget", "mq_open", "memfd_create", "memfd_secret"),
        *("add_key", "request_key", "keyctl"),
    ),
    "the kernel": (
        *("bpf", "perf_event_open", "userfaultfd", "init_module", "finit_module"),
        *("delete_module", "kexec_load", "kexec_file_load", "reboot", "iopl", "ioperm"),
        *("modify_ldt", "acct", "syslog", "settimeofday", "clock_settime", "clock_adjtime"),
        *("adjtimex", "sethostname", "setdomainname", "vhangup", "lookup_dcookie"),
    ),
}
# Denied too where a program has no folder of its own: it writes nowhere.
WRITING = (
    *("creat", "mkdir", "mkdirat", "rmdir", "unlink", "unlinkat", "truncate", "ftruncate"),
    *("rename", "renameat", "renameat2", "link", "linkat", "symlink", "symlinkat"),
    *("chmod", "fchmod", "fchmodat", "fchmodat2", "chown", "fchown", "lchown", "fchownat"),
    *("utime", "utimes", "utimensat", "futimesat", "setxattr", "lsetxattr", "fsetxattr"),
)
FLAGS = {"open": 1, "openat": 2}  # which argument says how a file is opened
# Told as if the kernel did not know them: libraries then take the older call, which is denied.
UNKNOWN = ("clone3", "openat2")


@cache
def compiled_filter(writes: bool) -> bytes:
    """The filter; `writes`: of a layer that has a folder to write in.

    Raises ImportError or RuntimeError where libseccomp can't be had.
    """
    import pyseccomp

    rules = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
    denied, unknown = pyseccomp.ERRNO(errno.EPERM), pyseccomp.ERRNO(errno.ENOSYS)
    for name in (*chain(*DENIED.values()), *(() if writes else WRITING)):
        if _known(pyseccomp, name):
            rules.add_rule(denied, name)
    for name in UNKNOWN:
        if _known(pyseccomp, name):
            rules.add_rule(unknown, name)
    # Its limits may be read, not set.
    rules.add_rule(denied, "prlimit64", pyseccomp.Arg(2, pyseccomp.NE, 0))
    for name, argument in FLAGS.items() if not writes else ():
        for flag in (os.O_WRONLY, os.O_RDWR, os.O_CREAT, os.O_TRUNC):
            if _known(pyseccomp, name):
                asked = pyseccomp.Arg(argument, pyseccomp.MASKED_EQ, flag, flag)
                rules.add_rule(denied, name, asked)
    with tempfile.TemporaryFile() as file:
        rules.export_bpf(file)
        file.seek(0)
        return file.read()


def _known(pyseccomp: Any, name: str) -> bool:
    """Whether this machine's kernels have such a call at all: of none the number is negative."""
    return int(pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name)) >= 0
