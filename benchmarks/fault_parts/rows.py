"""Rows of a part as JSON lines, so that a benchmark that was ended goes on where it was.

In: a folder and a part's name. Out: the rows that stand, by case. Invariant: a row counts for the
sources that it was measured with, and no others.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.fault_parts.outcome import ROOT

Row = dict[str, Any]


def sources() -> str:
    """Digest of the package's sources."""
    found = hashlib.sha256()
    for path in sorted((ROOT / "rnr_dist").rglob("*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()[:16]


class Rows:
    """The rows of one part."""

    def __init__(self, folder: Path, part: str):
        self.part, self._path, self._sources = part, folder / f"{part}.jsonl", sources()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        lines = self._path.read_text(encoding="utf-8").splitlines() if self._path.exists() else []
        rows = [json.loads(line) for line in lines]
        self.known: dict[str, Row] = {
            row["case"]: row for row in rows if row["sources"] == self._sources
        }

    def add(self, case: str, row: Row) -> Row:
        """Keep the row of a case."""
        whole = {"case": case, **row, "sources": self._sources}
        with self._path.open("a", encoding="utf-8") as handle:
            handle.write(json.dumps(whole) + "\n")
        self.known[case] = whole
        told = {key: value for key, value in row.items() if value not in ("", [], None)}
        print(f"{self.part}: {case}: {json.dumps(told)[:400]}", flush=True)
        return whole

    def measure(
        self, cases: Iterable[tuple[str, Callable[[], Row]]], at_once: int = 1
    ) -> list[Row]:
        """The rows of these cases; those that stand are not measured again."""
        wanted = list(cases)

        def one(case: tuple[str, Callable[[], Row]]) -> None:
            name, ask = case
            if name not in self.known:
                began = time.monotonic()
                row = ask()
                self.add(name, {**row, "seconds": round(time.monotonic() - began, 1)})

        with ThreadPoolExecutor(at_once) as threads:
            list(threads.map(one, wanted))
        return [self.known[name] for name, _ in wanted]
