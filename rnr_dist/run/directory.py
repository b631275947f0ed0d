"""The run directory: every arrow of the pipeline is a file here.

In: rows, JSON values, folders. Out: the same, after a crash too. Invariant: a file appears under
its name only when it is whole (written aside, then renamed), and a stage is done only when its
manifest, written last, names its files, their sizes and checksums and the fingerprint of all that
went into it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar, overload

import pyarrow as pa
import pyarrow.parquet as pq

from rnr_dist.errors import InputError
from rnr_dist.run.codec import absolute, from_plain, relative, run_of, to_plain
from rnr_dist.run.lock import LOCK_NOTE
from rnr_dist.types import ModelRef

LAYOUT = 2  # of the files in a run directory
READABLE_BY = {1: "rnr_dist 0.1"}
LAYOUT_NOTE = "layout.json"
BEGUN_NOTE = ".begun.json"  # in a stage's folder: the fingerprint that it was begun with
BASE_NOTE = "base.json"  # in a run directory: its base model, and where that lies

Kind = TypeVar("Kind")
Row = TypeVar("Row")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its name when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    aside = Path(name)
    try:
        yield aside
        aside.chmod(0o666 & ~_umask())  # mkstemp's files are closed to other users
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Like `replacing`, for a folder; an existing folder of that name is replaced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield aside
        aside.chmod(0o777 & ~_umask())
        for file in aside.rglob("*"):
            if file.is_file():
                file.chmod(0o666 & ~_umask())
        if path.exists():
            shutil.rmtree(path)
        aside.replace(path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _umask() -> int:
    """The process's umask; it can only be read by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def write_json(path: Path, value: Any) -> None:
    with replacing(path) as aside:
        aside.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def write(path: Path, value: Any) -> None:
    """Dataclasses, or lists and mappings of them, as JSON; paths in `path`'s run are relative."""
    run = run_of(path)
    write_json(path, to_plain(relative(value, run) if run else value))


@overload
def read(path: Path, kind: type[Kind]) -> Kind: ...
@overload
def read(path: Path, kind: Any) -> Any: ...
def read(path: Path, kind: Any) -> Any:
    """The `kind` that was written to `path`; its paths are absolute, in the run that it lies in.

    Raises InputError that names the file, and the key where one is missing or wrong.
    """
    run, base = run_of(path), None
    if run and (note := run / BASE_NOTE).exists():
        base = absolute(_whole(note, ModelRef), run, None, str(note))
    return absolute(_whole(path, kind), run, base, str(path))


def _whole(path: Path, kind: Any) -> Any:
    """The `kind` in a file, with its paths as they are written."""
    try:
        content = read_json(path)
    except FileNotFoundError:
        raise InputError(f"{path}: not there; expected a file that a run has written") from None
    except ValueError as error:
        raise InputError(
            f"{path}: found no whole JSON ({error}); expected what was written"
        ) from None
    return from_plain(kind, content, str(path))


def write_rows(path: Path, rows: Iterable[Any]) -> None:
    """Dataclass rows of one type to a Parquet file. At least one row, so that types are known."""
    held = list(rows)
    # Column by column: `asdict` copies every token id of every row, ten times slower.
    names = [field.name for field in fields(held[0])]
    columns = {name: [getattr(row, name) for row in held] for name in names}
    with replacing(path) as aside:
        pq.write_table(pa.table(columns), aside)


def read_rows(path: Path, kind: type[Row]) -> list[Row]:
    """The rows of a Parquet file as dataclasses of `kind`; raises InputError as `read` does."""
    return from_plain(list[kind], pq.read_table(path).to_pylist(), str(path))  # type: ignore[valid-type]


def checksum(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


class EventLog:
    """Append-only JSON lines, the only commit point of a search (docs/design.md)."""

    def __init__(self, path: Path):
        self.path = path

    def append(self, *events: dict[str, Any]) -> None:
        """Add a whole line for each; they are on disk when this returns."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps(event, ensure_ascii=False).encode() + b"\n" for event in events]
        with self.path.open("ab") as handle:
            handle.write(b"".join(lines))
            handle.flush()
            os.fsync(handle.fileno())

    def read(self) -> list[dict[str, Any]]:
        """All whole lines; a line that a crash cut short is dropped from the file."""
        if not self.path.exists():
            return []
        content = self.path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(self.path, whole)
        return [json.loads(line) for line in content[:whole].splitlines()]


class RunDir:
    """One run's folder, its stages and their manifests."""

    def __init__(self, path: Path):
        self.path = path.absolute()  # Ray, Tune and Train workers change directory

    @classmethod
    def open(cls, path: Path, config: dict[str, Any], resume: bool) -> RunDir:
        """Create the folder for `config`, or reopen it.

        Raises InputError when it exists and `resume` is off, when it is none of this layout, and
        when it cannot be made. Whether another config may go on in it, `changed_keys` is for.
        """
        run = cls(path)
        if run.marker.exists():
            run.require_layout()
            if not resume:
                raise InputError(
                    f"{run.path}: holds a run already; expected an unused directory, or --resume"
                )
        elif run.path.exists() and not run.path.is_dir():
            raise InputError(f"{run.path}: is a file; expected an unused directory")
        elif run.path.exists() and any(p.name != LOCK_NOTE for p in run.path.iterdir()):
            raise InputError(
                f"{run.path}: not empty and no run of rnr (no config.json); expected an unused "
                "directory"
            )
        else:
            try:
                write_json(run.path / LAYOUT_NOTE, {"layout": LAYOUT})
                write_json(run.marker, config)
            except OSError as error:
                raise InputError(
                    f"{run.path}: cannot be made ({error.strerror}); expected a place to write to"
                ) from error
        return run

    @property
    def marker(self) -> Path:
        """The run's config, which makes a folder a run directory."""
        return self.path / "config.json"

    def require_layout(self) -> None:
        """Raises InputError for a run whose files another version wrote in another way."""
        note = self.path / LAYOUT_NOTE
        found = read_json(note)["layout"] if note.exists() else 1
        if found != LAYOUT:
            raise InputError(
                f"{self.path}: found a run of layout {found}, expected {LAYOUT}; "
                f"{READABLE_BY.get(found, 'a newer rnr_dist')} reads it"
            )

    def changed_keys(self, config: dict[str, Any]) -> list[str]:
        """Dotted keys at which the run's config differs from this one."""
        return differing_keys(read_json(self.marker), config)

    def take_config(self, config: dict[str, Any]) -> None:
        """From now on the run has this config."""
        write_json(self.marker, config)

    def begin(self, name: str, fingerprint: str) -> Path | None:
        """Make ready for a stage with these inputs.

        What the stage had made, or begun, with other inputs is moved to `earlier/`: nothing that
        was computed is lost. Returns where to, if so.
        """
        folder, note = self.path / name, self.path / name / BEGUN_NOTE
        moved = None
        if note.exists() and read_json(note)["fingerprint"] != fingerprint:
            aside = self.path / "earlier"
            aside.mkdir(exist_ok=True)
            number = sum(path.name.startswith(f"{name}-") for path in aside.iterdir())
            moved = aside / f"{name}-{number}"
            folder.rename(moved)
        if not note.exists():
            write_json(self.stage(name) / BEGUN_NOTE, {"fingerprint": fingerprint})
        return moved

    def stage(self, name: str) -> Path:
        """The stage's folder (made when missing)."""
        folder = self.path / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def done(self, name: str, fingerprint: str) -> bool:
        """Whether the stage finished with the same inputs and its files are still what they were.

        Sizes are compared, checksums are kept for `verify`, since hashing weights at each start
        costs seconds.
        """
        manifest = self._manifest(name)
        if not manifest.exists():
            return False
        content = read_json(manifest)
        if content["fingerprint"] != fingerprint:
            return False
        folder = self.path / name
        return all(
            (folder / file["path"]).exists()
            and (folder / file["path"]).stat().st_size == file["size"]
            for file in content["files"]
        )

    def finished(self) -> dict[str, str]:
        """The fingerprint of each finished stage, by its name."""
        manifests = self.path.glob("*/manifest.json")
        return {path.parent.name: read_json(path)["fingerprint"] for path in manifests}

    def finish(self, name: str, fingerprint: str) -> None:
        """Write the stage's manifest: from now on `done` holds."""
        folder = self.stage(name)
        files = [
            {
                "path": str(path.relative_to(folder)),
                "size": path.stat().st_size,
                "sha256": checksum(path),
            }
            for path in sorted(folder.rglob("*"))
            if path.is_file() and path != self._manifest(name) and not path.name.startswith(".")
        ]
        write_json(self._manifest(name), {"fingerprint": fingerprint, "files": files})

    def _manifest(self, name: str) -> Path:
        return self.path / name / "manifest.json"


def differing_keys(left: Any, right: Any, prefix: str = "") -> list[str]:
    """Dotted keys at which two JSON values differ."""
    if isinstance(left, dict) and isinstance(right, dict):
        return [
            found
            for key in sorted({*left, *right})
            for found in differing_keys(left.get(key), right.get(key), f"{prefix}{key}.")
        ]
    return [] if left == right else [prefix.rstrip(".")]
