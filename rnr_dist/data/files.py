"""Which files a source stands for, and where they lie on this disk.

In: `builtin:NAME`, `hub:NAME[:SPLIT]`, an address or a path. Out: `DataFile`s. Invariant: what lies
at an address is fetched once a process, so what is read is what a digest was taken of.
"""

from __future__ import annotations

import atexit
import shutil
from collections.abc import Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

from rnr_dist.config.secrets import without_secrets
from rnr_dist.data.rows import DataFile
from rnr_dist.errors import InputError
from rnr_dist.run.scratch import Scratch

BUILTIN = "builtin:"
BUILTIN_FOLDER = Path(__file__).parent / "builtin"
# Name -> its files.
BUILTIN_TEXTS = {
    "challenging": ("challenging_a.txt", "challenging_b.txt"),
    "ordinary": ("ordinary.txt",),
    "expository": ("expository_a.txt", "expository_b.txt"),
    "narrative": ("narrative.txt",),
    "practical": ("practical.txt",),
    "external": ("external.jsonl",),
    "choices": ("choices.jsonl",),
    "dialogues": ("dialogues.jsonl",),
    "coding": ("coding.jsonl",),
}
HUB = "hub:"
HUB_SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")
ADDRESS = "://"
# What pyarrow reads by itself; fsspec, which reads the others, would ask for a package of each.
ARROW_SCHEMES = ("s3", "gs", "gcs", "hdfs", "abfs", "abfss")


def files_of(source: str, columns: Mapping[str, str] | None = None) -> list[DataFile]:
    """The files that a source stands for, with its `columns`. Raises InputError."""
    return [replace(file, columns=columns or {}) for file in _files_of(source)]


def _files_of(source: str) -> list[DataFile]:
    if source.startswith(BUILTIN):
        name = source.removeprefix(BUILTIN)
        if name not in BUILTIN_TEXTS:
            raise InputError(
                f"{source}: no built-in text is called {name!r}; expected one of "
                f"{', '.join(BUILTIN_TEXTS)}"
            )
        return [DataFile(BUILTIN_FOLDER / file) for file in BUILTIN_TEXTS[name]]
    if source.startswith(HUB):
        name, _, split = source.removeprefix(HUB).partition(":")
        return [DataFile(path) for path in _hub_files(name, split)]
    if ADDRESS in source:
        return [DataFile(fetched(source), without_secrets(source))]
    try:
        return [DataFile(Path(source).expanduser())]
    except RuntimeError as error:  # ~NAME of nobody
        raise InputError(f"{source}: {error}; expected a file") from error


@cache
def fetched(address: str) -> Path:
    """A copy of what lies at an address, in a private folder that goes with this process.

    Credentials are those of the environment, as pyarrow and fsspec find them. Raises InputError.
    """
    scratch = Scratch()
    atexit.register(scratch.remove)
    path = scratch.path / "data"
    try:
        with _reading(address) as there, path.open("wb") as here:
            shutil.copyfileobj(there, here)
    except Exception as error:  # of pyarrow, fsspec, a package of one scheme, or the system
        scratch.remove()
        atexit.unregister(scratch.remove)
        shown, behind = without_secrets(address), address.partition(ADDRESS)[2]
        reason = (str(error).strip() or "no reason given").splitlines()[0]
        reason = without_secrets(reason).replace(behind, shown.partition(ADDRESS)[2])
        raise InputError(
            f"{shown}: cannot be fetched ({type(error).__name__}: {reason}), "
            "expected a file at that address"
        ) from error
    return path


def _reading(address: str) -> Any:
    """What lies at an address, as it is there: not unpacked."""
    if address.partition(ADDRESS)[0] in ARROW_SCHEMES:
        import pyarrow.fs

        files, path = pyarrow.fs.FileSystem.from_uri(address)
        return files.open_input_stream(path, compression=None)
    import fsspec

    return fsspec.open(address, "rb", compression=None)


def _hub_files(name: str, split: str) -> list[Path]:
    """The files of rows of a hub data set whose path or name begins with `split`.

    A data set of several configurations has a folder for each; then `split` must say which, as in
    `wikitext-2-v1/test`. Downloads what is missing from the hub's cache.
    """
    import huggingface_hub

    patterns = [f"{start}{split}*{suffix}" for start in ("", "*/") for suffix in HUB_SUFFIXES]
    try:
        folder = Path(
            huggingface_hub.snapshot_download(name, repo_type="dataset", allow_patterns=patterns)
        )
    except Exception as error:  # the client's own, its HTTP library's and the system's errors
        reason = str(error).strip().partition("\n")[0]
        raise InputError(
            f"hub:{name}: cannot be fetched ({type(error).__name__}: {reason}), "
            "expected a public data set or one in the hub's cache"
        ) from error
    # The cache may hold files of earlier downloads too.
    names = (path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*.*")))
    wanted = [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]
    folders = {name.rpartition("/")[0] for name in wanted}
    if not wanted:
        raise InputError(
            f"hub:{name}: found no file {split}*.parquet or {split}*.jsonl, packed (.gz) or not"
        )
    if len(folders) > 1:
        raise InputError(
            f"hub:{name}: found files in {', '.join(sorted(folders))}; expected one folder, "
            f"as in hub:{name}:{min(folders)}/{split}"
        )
    return [folder / name for name in wanted]
