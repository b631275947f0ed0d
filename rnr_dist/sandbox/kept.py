"""Verdicts that were made before, by the key of their check, in one file.

In: keys and verdicts. Out: verdicts. Invariant: several processes may read and write at once; a
file that cannot be read costs its verdicts and nothing else.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from contextlib import closing, suppress
from dataclasses import asdict
from pathlib import Path

from rnr_dist.sandbox.verdicts import Verdict, verdict_of

WAIT_SECONDS = 30.0  # for another process that writes


class Kept:
    """path: of the file, which is made."""

    def __init__(self, path: Path):
        self._path = path
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._met: dict[str, Verdict] = {}
        self._lock = threading.Lock()
        with self._lock, suppress(sqlite3.DatabaseError), closing(self._open()) as file, file:
            file.execute("create table if not exists verdicts (key text primary key, verdict text)")

    def __reduce__(self) -> tuple[type[Kept], tuple[Path]]:
        return Kept, (self._path,)  # its lock stays in its process

    def get(self, key: str) -> Verdict | None:
        """The verdict under that key, if there is one."""
        if known := self._met.get(key):
            return known
        with self._lock, suppress(sqlite3.DatabaseError), closing(self._open()) as file:
            asked = file.execute("select verdict from verdicts where key = ?", (key,))
            if row := asked.fetchone():
                return verdict_of(json.loads(row[0]))
        return None

    def put(self, key: str, verdict: Verdict) -> None:
        """Keep a verdict."""
        self._met[key] = verdict
        text = json.dumps(asdict(verdict))
        with self._lock, suppress(sqlite3.DatabaseError), closing(self._open()) as file, file:
            file.execute("insert or replace into verdicts values (?, ?)", (key, text))

    def _open(self) -> sqlite3.Connection:
        return sqlite3.connect(self._path, timeout=WAIT_SECONDS)
