"""Scores that cost a request: asked once, and kept for every run of this user.

In: texts, and who is asked. Out: a score each. Invariant: what was answered is kept before anything
is raised, so an outage loses nothing; a text itself is never written, only its digest.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import numpy as np

from rnr_dist.run.places import cache_folder, require_cache
from rnr_dist.types import digest

Texts = tuple[str, ...]
WAIT_SECONDS = 60  # for another process that writes


class KeptScores:
    """The scores of one oracle. version: all that a score depends on beside its texts."""

    def __init__(self, version: str, at_once: int):
        require_cache()
        self._version, self._at_once = version, at_once
        self._path: Path = cache_folder() / "scores.sqlite"

    def of(self, asked: Sequence[Texts], ask: Callable[[Texts], float]) -> np.ndarray:
        """(n,) scores. `ask` is called once for each of the texts that is not known, so many at
        once; what it raises first is raised when the others that were begun have ended."""
        keys = {texts: digest([self._version, *texts]) for texts in asked}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(sqlite3.connect(self._path, timeout=WAIT_SECONDS)) as kept:
            kept.execute("create table if not exists scores (key text primary key, score real)")
            known = {texts: found for texts, key in keys.items() if (found := _read(kept, key))}
            missing = [texts for texts in keys if texts not in known]
            with ThreadPoolExecutor(self._at_once) as workers:
                parts = {workers.submit(ask, texts): texts for texts in missing}
                raised: BaseException | None = None
                for part in as_completed(parts):
                    if part.cancelled():
                        continue
                    if error := part.exception():
                        raised = raised or error
                        workers.shutdown(wait=False, cancel_futures=True)
                        continue
                    known[parts[part]] = (part.result(),)
                    _write(kept, keys[parts[part]], part.result())
        if raised:
            raise raised
        return np.array([known[texts][0] for texts in asked], dtype=np.float64)


def _read(kept: sqlite3.Connection, key: str) -> tuple[float] | None:
    found: tuple[float] | None = kept.execute(
        "select score from scores where key = ?", (key,)
    ).fetchone()
    return found


def _write(kept: sqlite3.Connection, key: str, score: float) -> None:
    with kept:
        kept.execute("insert or replace into scores values (?, ?)", (key, score))
