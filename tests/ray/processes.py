"""Which processes Ray has started for a test."""

import contextlib

import psutil


def processes(name):
    """Processes that this test's own cluster started under such a name."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if name in " ".join(process.cmdline()):
                found.append(process)
    return found
