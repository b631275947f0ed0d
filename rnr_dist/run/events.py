"""Append-only JSON lines, the only commit point of a search (docs/design.md).

In: events. Out: the same, in their order. Invariant: a line that a crash cut short is dropped, and
one that is damaged is never taken for an event: each carries a checksum of itself.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rnr_dist.run.progress import say

CHECK = "crc32"  # the key under which a line carries its checksum; lines of before have none

Event = dict[str, Any]


@dataclass(frozen=True)
class Line:
    """One line of a log: where it begins, its bytes, and its event unless it is damaged."""

    offset: int
    content: bytes
    event: Event | None


class EventLog:
    """A file of JSON lines."""

    def __init__(self, path: Path):
        self.path = path

    def append(self, *events: Event) -> None:
        """Add a whole line for each; they are on disk when this returns."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as handle:
            handle.write(b"".join(map(_written, events)))
            handle.flush()
            os.fsync(handle.fileno())

    def lines(self, mend: bool = True) -> list[Line]:
        """All whole lines; one that a crash cut short is dropped from the file if `mend`."""
        if not self.path.exists():
            return []
        content = self.path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if mend and whole < len(content):
            os.truncate(self.path, whole)
        found, offset = [], 0
        for line in content[:whole].splitlines(keepends=True):
            found.append(Line(offset, line, _event(line)))
            offset += len(line)
        return found

    def read(self) -> list[Event]:
        """The events up to the first damaged line, from which on the file is cut.

        What came after it was told to someone who had heard of it, so it counts no more. The file
        as it was is kept as `<name>.damaged`.
        """
        lines = self.lines()
        bad = next((line for line in lines if line.event is None), None)
        if bad:
            kept = self.path.with_name(f"{self.path.name}.damaged")
            kept.write_bytes(self.path.read_bytes())
            os.truncate(self.path, bad.offset)
            number = lines.index(bad) + 1
            say(
                f"{self.path}: line {number} of {len(lines)} is damaged; what it and later lines "
                f"said is done again, and the file is kept as {kept.name}"
            )
        return events_of(lines[: lines.index(bad)] if bad else lines)


def events_of(lines: Sequence[Line]) -> list[Event]:
    """The events of the lines that are not damaged."""
    return [line.event for line in lines if line.event is not None]


def _written(event: Event) -> bytes:
    text = json.dumps(event, ensure_ascii=False)
    marked = json.dumps({**event, CHECK: _sum(text)}, ensure_ascii=False)
    return marked.encode() + b"\n"


def _event(line: bytes) -> Event | None:
    """What a line says; None where it is not what was written."""
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(event, dict):
        return None
    check = event.pop(CHECK, None)
    if check is not None and check != _sum(json.dumps(event, ensure_ascii=False)):
        return None
    return event


def _sum(text: str) -> str:
    return f"{zlib.crc32(text.encode()):08x}"
