"""What a bad input is: what is spoilt in the valid place, the command, and what its sentence names.

In: a furnished place (`place.furnish`). Out: the same with the edits of a case in it. Invariant: a
case is data, so that the list can be read, kept and compared.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Edit:
    """One change of a file: from byte `at`, `remove` bytes go and `insert` comes in.

    A negative `at` counts from the end, `remove` None takes all that follows. `insert` holds bytes
    as latin-1, as JSON can. A missing file is written.
    """

    file: str
    insert: str = ""
    at: int = 0
    remove: int | None = None

    def apply(self, place: Path) -> None:
        path = place / self.file
        path.parent.mkdir(parents=True, exist_ok=True)
        content = path.read_bytes() if path.exists() else b""
        at = self.at + len(content) if self.at < 0 else self.at
        end = len(content) if self.remove is None else at + self.remove
        path.write_bytes(content[:at] + self.insert.encode("latin-1") + content[end:])


@dataclass(frozen=True)
class Swap:
    """One change of a text file: `old`, which it must hold, becomes `new`."""

    file: str
    old: str
    new: str

    def apply(self, place: Path) -> None:
        path = place / self.file
        content = path.read_text(encoding="utf-8")
        if self.old not in content:
            raise ValueError(f"{self.file}: does not hold {self.old!r}")
        path.write_text(content.replace(self.old, self.new, 1), encoding="utf-8")


@dataclass(frozen=True)
class Cut:
    """A file of which only the first `share` is left; 0 empties it."""

    file: str
    share: float = 0.5

    def apply(self, place: Path) -> None:
        path = place / self.file
        os.truncate(path, int(path.stat().st_size * self.share))


@dataclass(frozen=True)
class Flip:
    """A file with one bit turned over, `share` of the way in; its size stays."""

    file: str
    share: float = 0.5

    def apply(self, place: Path) -> None:
        path = place / self.file
        content = bytearray(path.read_bytes())
        content[int(len(content) * self.share)] ^= 0x10
        path.write_bytes(content)


@dataclass(frozen=True)
class Gone:
    """A file or folder that is taken away."""

    file: str

    def apply(self, place: Path) -> None:
        path = place / self.file
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


@dataclass(frozen=True)
class Case:
    """A bad input. why: what is wrong with it. names: what a sentence about it has to say."""

    name: str
    why: str
    command: tuple[str, ...]
    edits: tuple[Edit | Swap | Gone, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    names: tuple[str, ...] = ()

    def spoil(self, place: Path) -> None:
        for edit in self.edits:
            edit.apply(place)

    @property
    def needs_run(self) -> bool:
        """Whether the command works on a finished run."""
        return "run" in self.command[1:]

    def plain(self) -> dict[str, Any]:
        """As JSON; only a fuzzed case, whose edits are all of one kind, is kept so."""
        return asdict(self)


def from_plain(content: Mapping[str, Any]) -> Case:
    """The case that `plain` gave `content` for."""
    edits = tuple(Edit(**edit) for edit in content["edits"])
    lists = {name: tuple(content[name]) for name in ("command", "names")}
    return Case(**{**content, **lists, "edits": edits})


def environment(case: Case) -> dict[str, str]:
    """The process's, with the case's own in it."""
    return {**os.environ, **case.environment}
