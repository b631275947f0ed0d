"""The run directory: every arrow of the pipeline is a file here.

In: rows, JSON values, folders. Out: the same, after a crash too. Invariant: a file appears under
its name only when it is whole (written aside, then renamed), and a stage is done only when its
manifest, written last, stands and all that it names still has the content that it had
(`run.manifests`).
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar, overload

import pyarrow as pa
import pyarrow.parquet as pq

from rnr_dist.errors import InputError
from rnr_dist.run.codec import absolute, from_plain, relative, run_of, to_plain
from rnr_dist.run.earlier import free_place
from rnr_dist.run.lock import LOCK_NOTE
from rnr_dist.run.manifests import MANIFEST, Manifest, cut_short, listing, problems
from rnr_dist.run.progress import say
from rnr_dist.types import ModelRef

LAYOUT = 2  # of the files in a run directory
READABLE_BY = {1: "rnr_dist 0.1"}
LAYOUT_NOTE = "layout.json"
BEGUN_NOTE = ".begun.json"  # in a stage's folder: what it was begun with
STAGES_NOTE = "stages.json"  # in a run directory: what each stage took
PLACE_NOTE = ".place"  # in a run directory: where it lies, so that a moved one can say so
BASE_NOTE = "base.json"  # in a run directory: its base model, and where that lies

Kind = TypeVar("Kind")
Row = TypeVar("Row")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its name when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # No mkstemp: a search writes two files a pull, and each call of the system counts.
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}")
    try:
        yield aside
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


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
        aside.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """The JSON value in a file. Raises InputError that names it where it holds none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # what `json` and the decoder raise
        raise InputError(
            f"{path}: found no whole JSON ({_brief(error)}); expected what was written{_mend(path)}"
        ) from None


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:100]


def _mend(path: Path) -> str:
    """What one can do about a damaged file of a run; nothing is known of others."""
    run = run_of(path)
    if run is None:
        return ""
    if path.absolute().parent == run and path.name != STAGES_NOTE:
        return ": restore it from a copy"
    return ": remove it, and --resume makes it anew"


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
        base = absolute(_whole(note, ModelRef), run, None, note)
    return absolute(_whole(path, kind), run, base, path)


def _whole(path: Path, kind: Any) -> Any:
    """The `kind` in a file, with its paths as they are written."""
    try:
        content = read_json(path)
    except FileNotFoundError:
        raise InputError(f"{path}: not there; expected a file that a run has written") from None
    return from_plain(kind, content, str(path))


def write_rows(path: Path, rows: Iterable[Any]) -> None:
    """Dataclass rows of one type to a Parquet file. At least one row, so that types are known."""
    held = list(rows)
    # Column by column: `asdict` copies every token id of every row, ten times slower.
    names = [field.name for field in fields(held[0])]
    columns = {name: [getattr(row, name) for row in held] for name in names}
    with replacing(path) as aside:
        pq.write_table(pa.table(columns), aside, write_page_checksum=True)


def read_rows(path: Path, kind: type[Row]) -> list[Row]:
    """The rows of a Parquet file as dataclasses of `kind`; raises InputError as `read` does."""
    rows = read_table(path).to_pylist()
    return from_plain(list[kind], rows, str(path))  # type: ignore[valid-type]


def read_table(path: Path) -> pa.Table:
    """The table in a Parquet file. Raises InputError where it is not whole."""
    try:
        return pq.read_table(path, page_checksum_verification=True)
    except FileNotFoundError:
        raise InputError(f"{path}: not there; expected a file that a run has written") from None
    except (OSError, ValueError) as error:  # Arrow's own errors are some of these
        raise InputError(
            f"{path}: found no whole Parquet file ({_brief(error)}); expected what was "
            f"written{_mend(path)}"
        ) from None


@dataclass(frozen=True)
class Layout:
    """What `layout.json` holds."""

    layout: int


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
        run._note_place()
        return run

    @property
    def marker(self) -> Path:
        """The run's config, which makes a folder a run directory."""
        return self.path / "config.json"

    def require_layout(self) -> None:
        """Raises InputError for a run whose files another version wrote in another way."""
        note = self.path / LAYOUT_NOTE
        found = _whole(note, Layout).layout if note.exists() else 1
        if found != LAYOUT:
            raise InputError(
                f"{self.path}: found a run of layout {found}, expected {LAYOUT}; "
                f"{READABLE_BY.get(found, 'a newer rnr_dist')} reads it"
            )

    def _note_place(self) -> None:
        """Say where a run that was moved or copied lay before, once."""
        note = self.path / PLACE_NOTE
        before = note.read_text(encoding="utf-8", errors="replace").strip() if note.exists() else ""
        if before == str(self.path):
            return
        if before:
            say(f"{self.path}: was moved or copied; it lay in {before} before")
        try:
            with replacing(note) as aside:
                aside.write_text(f"{self.path}\n", encoding="utf-8")
        except OSError as error:
            raise InputError(
                f"{self.path}: cannot be written to ({error.strerror}); expected a run directory "
                "that can be gone on with"
            ) from error

    def changed_keys(self, config: dict[str, Any]) -> list[str]:
        """Dotted keys at which the run's config differs from this one."""
        return differing_keys(read_json(self.marker), config)

    def take_config(self, config: dict[str, Any]) -> None:
        """From now on the run has this config."""
        write_json(self.marker, config)

    def stage(self, name: str) -> Path:
        """The stage's folder (made when missing)."""
        folder = self.path / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def begin(
        self, name: str, fingerprint: str, inputs: Mapping[str, str] | None = None
    ) -> Path | None:
        """Make ready for a stage with this config's fingerprint and these inputs.

        What the stage had made, or begun, with others is moved to `earlier/`: nothing that was
        computed is lost. Returns where to, if so. Of a stage that was made with the same the files
        that are damaged are moved there, so that they are made anew from those that are whole.
        """
        note, moved = self.path / name / BEGUN_NOTE, None
        begun = _note(note)
        if note.exists() and not (begun and begun.like(fingerprint, inputs)):
            moved = free_place(self.path, name)
            (self.path / name).rename(moved)
        elif manifest := self.manifest(name):
            bad = [one for one in problems(self.path / name, manifest) if one.path.is_file()]
            if bad:
                aside = free_place(self.path, f"{name}-damaged")
                for one in bad:
                    place = aside / one.path.relative_to(self.path)
                    place.parent.mkdir(parents=True, exist_ok=True)
                    one.path.rename(place)
                say(f"{name}: what is damaged of it is kept in {aside}")
        for path in cut_short(self.stage(name)):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        write(self.path / name / BEGUN_NOTE, Manifest(fingerprint, inputs=inputs))
        return moved

    def undone(
        self, name: str, fingerprint: str, inputs: Mapping[str, str] | None = None
    ) -> str | None:
        """Why a stage is to be done; None where it stands as it was made, with the same inputs.

        "" where it was not made with this config yet. inputs: None asks for none of them; so does
        a manifest of an earlier version, which has none.
        """
        manifest = self.manifest(name)
        if manifest is None or manifest.fingerprint != fingerprint:
            return ""
        if inputs is not None and manifest.inputs is not None and manifest.inputs != inputs:
            keys = differing_keys(dict(manifest.inputs), dict(inputs))
            return f"made from another {', '.join(keys)}"
        first = next(problems(self.path / name, manifest), None)
        return f"{first.path} is {first.kind}" if first else None

    def done(self, name: str, fingerprint: str, inputs: Mapping[str, str] | None = None) -> bool:
        """Whether the stage finished with the same inputs and its files are what they were."""
        return self.undone(name, fingerprint, inputs) is None

    def finished(self) -> dict[str, str]:
        """The fingerprint of each finished stage, by its name."""
        names = [path.parent.name for path in sorted(self.path.glob(f"*/{MANIFEST}"))]
        found = {name: self.manifest(name) for name in names}
        return {name: manifest.fingerprint for name, manifest in found.items() if manifest}

    def finish(
        self,
        name: str,
        fingerprint: str,
        inputs: Mapping[str, str] | None = None,
        beside: Iterable[str] = (),
    ) -> None:
        """Write the stage's manifest: from now on `done` holds.

        beside: what the stage has written elsewhere in the run.
        """
        folder = self.stage(name)
        write(folder / MANIFEST, Manifest(fingerprint, listing(folder, beside), inputs))

    def manifest(self, name: str) -> Manifest | None:
        """What a finished stage has noted; None where it is not finished, or its note is damaged,
        and then its files are gone through again."""
        return _note(self.path / name / MANIFEST)

    def begun(self, name: str) -> Manifest | None:
        """What a stage was made, or begun, with; None where it never was."""
        return self.manifest(name) or _note(self.path / name / BEGUN_NOTE)

    def require_whole(self, name: str) -> None:
        """Raises InputError where a file of a finished stage is not what the stage wrote."""
        manifest = self.manifest(name)
        for one in problems(self.path / name, manifest) if manifest else ():
            told = f" ({one.found})" if one.found else ""
            raise InputError(
                f"{one.path}: is {one.kind}{told}; expected what {name} wrote: restore it from a "
                f"copy, or go on with --resume {shlex.quote(str(self.path))}, which makes it anew"
            )


def read_manifest(path: Path) -> Manifest:
    """A manifest, or what a stage was begun with; it names no model, so needs no base to be read.

    Raises InputError.
    """
    found: Manifest = _whole(path, Manifest)
    return found


def _note(path: Path) -> Manifest | None:
    """A manifest, or what a stage was begun with; None where it is damaged, which is told."""
    if not path.exists():
        return None
    try:
        return read_manifest(path)
    except InputError as error:
        say(f"{error}; the stage is gone through again")
        return None


def differing_keys(left: Any, right: Any, prefix: str = "") -> list[str]:
    """Dotted keys at which two JSON values differ."""
    if isinstance(left, dict) and isinstance(right, dict):
        return [
            found
            for key in sorted({*left, *right})
            for found in differing_keys(left.get(key), right.get(key), f"{prefix}{key}.")
        ]
    return [] if left == right else [prefix.rstrip(".")]
