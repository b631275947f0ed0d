"""The seal on `final`: who read it, under which config, and how often.

In: a stage that reads the split, the fingerprint of its config, the models that it reads. Out: the
note of every reading. Invariant: a stage reads `final` under one config, of one result; another is
refused unless it is asked for, and then every table tells that `final` was read again.
"""

from __future__ import annotations

import subprocess
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from rnr_dist.errors import InputError
from rnr_dist.run.directory import read, write
from rnr_dist.run.progress import say

NOTE = "final.json"
UNKNOWN = "unknown"  # of a reading whose note was lost


@dataclass(frozen=True)
class FinalReading:
    """One reading. commit: that was checked out, or the installed version, before it was read.
    models: digest of those that were read, "" where none is known."""

    stage: str
    fingerprint: str
    commit: str
    at: str
    models: str = ""


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


def read_final(folder: Path, stage: str, fingerprint: str, reread: bool, models: str = "") -> None:
    """Note that `stage` reads `final` now. Goes on where it was interrupted without a new note.

    models: digest of those that are read. Another result under the same config, because a stage
    before was made anew, is a reading of its own. Raises InputError where it was read under another
    fingerprint and `reread` is off.
    """
    if not reread:
        require_sealed(folder, stage, fingerprint)
    before = final_readings(folder)
    own = [one for one in before if one.stage == stage]
    same = bool(own) and own[-1].fingerprint == fingerprint
    if same and not (models and own[-1].models and own[-1].models != models):
        return
    if same:
        say(f"{stage}: reads the split final again, of another result than before")
    _note(folder, FinalReading(stage, fingerprint, commit(), _now(), models))


def require_noted(folder: Path, stage: str, fingerprint: str) -> None:
    """Note once more that `stage`, which was done under this fingerprint, has read `final`.

    Where the note is gone nothing else would tell that the split is no longer unread.
    """
    if not any(one.stage == stage for one in final_readings(folder)):
        say(f"{folder / NOTE}: lacks what {stage} has read; noted again")
        _note(folder, FinalReading(stage, fingerprint, UNKNOWN, UNKNOWN))


def _note(folder: Path, reading: FinalReading) -> None:
    write(folder / NOTE, [*final_readings(folder), reading])


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M")


def rereading_note(folder: Path) -> str:
    """What tables say where `final` was read more than once; "" where it was not."""
    readings = final_readings(folder)
    again = len(readings) - len({reading.stage for reading in readings})
    last: dict[str, str] = {}
    same = 0  # readings of another result under the config that had read it
    for reading in readings:
        same += last.get(reading.stage) == reading.fingerprint
        last[reading.stage] = reading.fingerprint
    why = "of another result" if same == again else "under another config (--reread)"
    if same and same != again:
        why = f"of another result, or {why}"
    times = "once" if again == 1 else f"{again} times"
    return f"the split final was read again {times} {why}" if again else ""


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
        return UNKNOWN
