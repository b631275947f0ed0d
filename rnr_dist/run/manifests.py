"""What a finished stage has made, and from what: its manifest, and whether that still holds.

In: a stage's folder. Out: a `Manifest`; the files that are not what it says. Invariant: two stages
whose files have equal contents have equal digests, so what came after the one may stay after the
other.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from rnr_dist.run.digests import checksum
from rnr_dist.types import digest

MANIFEST = "manifest.json"
# Folders of Ray Tune's and Ray Train's own state: they hold no results.
SCRATCH = ("tune", "train")
CUT_SHORT = re.compile(r"\..+\.[a-z0-9_]{8}")  # what something is called until it is whole


@dataclass(frozen=True)
class Listed:
    """One file. path: relative to the stage's folder (`../summary.json` lies beside it)."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """fingerprint: of the config's keys. inputs: digests of data, checkpoints and the stages
    before, by name; None where an earlier version noted none."""

    fingerprint: str
    files: tuple[Listed, ...] = ()
    inputs: Mapping[str, str] | None = None

    @property
    def digest(self) -> str:
        """Identity of what the stage made."""
        return digest([[file.path, file.sha256] for file in self.files])

    def like(self, fingerprint: str, inputs: Mapping[str, str] | None) -> bool:
        """Whether the stage was made, or begun, from these, as far as both sides know them."""
        known = None not in (inputs, self.inputs)
        return self.fingerprint == fingerprint and not (known and inputs != self.inputs)


@dataclass(frozen=True)
class Problem:
    """One thing that is not as it was left. kind: what `rnr verify` puts first."""

    kind: str
    path: Path
    found: str = ""

    @property
    def line(self) -> str:
        return f"{self.kind:<8} {self.path}" + (f" ({self.found})" if self.found else "")


def listing(folder: Path, beside: Iterable[str] = ()) -> tuple[Listed, ...]:
    """The files below a stage's folder, and those that it has written elsewhere in the run.

    beside: paths of these, files or folders, relative to the run.
    """
    own = [(path, str(path.relative_to(folder))) for path in results(folder)]
    for name in beside:
        place = folder.parent / name
        paths = results(place) if place.is_dir() else [place] if place.is_file() else []
        own += [(path, f"../{path.relative_to(folder.parent)}") for path in paths]
    return tuple(Listed(name, path.stat().st_size, checksum(path)) for path, name in own)


def results(folder: Path) -> list[Path]:
    """The files of a folder that count: no manifest of its own, nothing hidden, no scratch."""
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / MANIFEST and not is_scratch(path, folder)
    ]


def is_scratch(path: Path, folder: Path) -> bool:
    """Whether a file in a folder is state of a library, or hidden: no result lies there."""
    parts = path.relative_to(folder).parts
    return any(part.startswith(".") and part != ".." for part in parts) or any(
        part in SCRATCH for part in parts[:-1]
    )


def cut_short(folder: Path) -> list[Path]:
    """Files and folders that a killed process was writing: they never got their names."""
    found = [path for path in sorted(folder.rglob(".*")) if CUT_SHORT.fullmatch(path.name)]
    return [path for path in found if not is_scratch(path.with_name("any"), folder)]


def problems(folder: Path, manifest: Manifest) -> Iterator[Problem]:
    """The manifest's files that are gone, or hold something else now."""
    for file in manifest.files:
        if is_scratch(folder / file.path, folder):
            continue  # listed by earlier versions
        path = Path(os.path.normpath(folder / file.path))
        if not path.is_file():
            yield Problem("missing", path)
        elif (size := path.stat().st_size) != file.size:
            yield Problem("damaged", path, f"{size} bytes; expected {file.size}")
        elif (found := checksum(path)) != file.sha256:
            told = f"digest {found[:16]}; expected {file.sha256[:16]}"
            yield Problem("damaged", path, told)
