"""The seal on `final`: who read it, under which config, and how often.

In: a stage that reads the split, and the fingerprint of all that went into it. Out: the note of
every reading. Invariant: a stage reads `final` under one fingerprint; another one is refused unless
it is asked for, and then every table tells that `final` was read again.
"""

from __future__ import annotations

import subprocess
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from rnr_dist.errors import InputError
from rnr_dist.run.directory import read, write

NOTE = "final.json"


@dataclass(frozen=True)
class FinalReading:
    """One reading. commit: that was checked out, or the installed version, before it was read."""

    stage: str
    fingerprint: str
    commit: str
    at: str


def final_readings(folder: Path) -> list[FinalReading]:
    """Every reading of `final` that a run, or a study, has made."""
    path = folder / NOTE
    return read(path, list[FinalReading]) if path.exists() else []


def require_sealed(folder: Path, stage: str, fingerprint: str) -> None:
    """Raises InputError where `stage` has last read `final` under another fingerprint."""
    own = [reading for reading in final_readings(folder) if reading.stage == stage]
    if own and own[-1].fingerprint != fingerprint:
        raise InputError(
            f"{folder}: {stage} has read the split final on {own[-1].at} under another config "
            f"(commit {own[-1].commit[:12]}); expected the same config, or --reread, which every "
            "table then tells"
        )


def read_final(folder: Path, stage: str, fingerprint: str, reread: bool) -> None:
    """Note that `stage` reads `final` now. Goes on where it was interrupted without a new note.

    Raises InputError where it was read under another fingerprint and `reread` is off.
    """
    if not reread:
        require_sealed(folder, stage, fingerprint)
    before = final_readings(folder)
    own = [one for one in before if one.stage == stage]
    if own and own[-1].fingerprint == fingerprint:
        return
    now = FinalReading(stage, fingerprint, commit(), time.strftime("%Y-%m-%d %H:%M"))
    write(folder / NOTE, [*before, now])


def rereading_note(folder: Path) -> str:
    """What tables say where `final` was read more than once; "" where it was not."""
    readings = final_readings(folder)
    again = len(readings) - len({reading.stage for reading in readings})
    times = "once" if again == 1 else f"{again} times"
    return (
        f"the split final was read again {times} under another config (--reread)" if again else ""
    )


def commit() -> str:
    """The commit of the sources that run, or the installed version where there is none."""
    asked = subprocess.run(
        ["git", "rev-parse", "HEAD"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    if asked.returncode == 0:
        return asked.stdout.strip()
    try:
        return f"rnr-dist {metadata.version('rnr-dist')}"
    except metadata.PackageNotFoundError:
        return "unknown"
