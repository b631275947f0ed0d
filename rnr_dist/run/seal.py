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

NOTE = "final.json"


@dataclass(frozen=True)
class SplitReader:
    """Who reads: a stage under a config, of these models by one digest; "" where none are known."""

    stage: str
    fingerprint: str
    models: str = ""


@dataclass(frozen=True)
class FinalReading:
    """One reading. commit: that was checked out, or the installed version, before it was read."""

    stage: str
    fingerprint: str
    commit: str
    at: str
    models: str = ""

    def by(self, reader: SplitReader) -> bool:
        """Whether it was the same reader, as far as both know what is read."""
        known = self.models and reader.models
        same = (self.stage, self.fingerprint) == (reader.stage, reader.fingerprint)
        return same and not (known and self.models != reader.models)


def final_readings(folder: Path) -> list[FinalReading]:
    """Every reading of `final` that a run, or a study, has made."""
    path = folder / NOTE
    return read(path, list[FinalReading]) if path.exists() else []


def require_sealed(folder: Path, reader: SplitReader) -> None:
    """Raises InputError where the stage has read `final` under another config, or of other models,
    alone."""
    own = [reading for reading in final_readings(folder) if reading.stage == reader.stage]
    if own and not any(reading.by(reader) for reading in own):
        same = any(reading.fingerprint == reader.fingerprint for reading in own)
        other = "of another result, which was made anew since" if same else "under another config"
        raise InputError(
            f"{folder}: {reader.stage} has read the split final on {own[-1].at} {other} "
            f"(commit {own[-1].commit[:12]}); expected the same config, or --reread, which every "
            "table then tells"
        )


def read_final(folder: Path, reader: SplitReader, reread: bool) -> None:
    """Note that a stage reads `final` now. Goes on where it was interrupted without a new note.

    Raises InputError where it was read under another fingerprint and `reread` is off.
    """
    if not reread:
        require_sealed(folder, reader)
    before = final_readings(folder)
    if any(one.by(reader) for one in before):
        return
    at = time.strftime("%Y-%m-%d %H:%M")
    now = FinalReading(reader.stage, reader.fingerprint, commit(), at, reader.models)
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
