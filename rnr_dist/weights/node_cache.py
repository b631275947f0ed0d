"""Weights of model references as local folders that an engine loads: checkpoints and adapters.

In: a model reference. Out: a folder on this node. Invariant: a folder is used only while it is
what was written there for its digest; only the most recent few are kept, none vanishes while an
engine of this node reads it, and what is kept goes with the last process that uses it.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from rnr_dist.errors import InputError
from rnr_dist.run.private import private_folder
from rnr_dist.types import ModelRef

KEPT = 3  # merged copies on a node's disk; each is as large as the checkpoint
KINDS = ("weights", "adapters")
USER = ".user-"  # in a cache: a file a process, locked for as long as the process lives
SPARE_BYTES = 2**26  # of disk beside the weights: tokenizer, file system
GIB = 2**30

_held: dict[Path, FileLock] = {}  # by cache: this process's mark among its users


@contextlib.contextmanager
def weights_folder(model: ModelRef, cache: Path | None = None) -> Iterator[Path]:
    """The checkpoint folder of `model`, to be read inside the block.

    Raises InputError where the checkpoint is not the one that the reference names, and where the
    disk has no room for a merged copy.
    """
    from rnr_dist.weights.checkpoints import require_content, weight_files

    if not model.terms:
        require_content(model)
        yield Path(model.checkpoint)
        return
    place = cache or node_folder("weights")

    def write(aside: Path) -> None:
        from rnr_dist.weights.composition import materialise

        materialise(model, aside)

    size = sum(file.stat().st_size for file in weight_files(Path(model.checkpoint)))
    with _cached(place, model.digest, KEPT, write, size) as folder:
        yield folder


@contextlib.contextmanager
def adapter_folder(
    model: ModelRef, rank: int, kept: int, cache: Path | None = None
) -> Iterator[Path]:
    """The folder of one adapter of all terms of `model`, of at most this rank.

    An engine may read it again after the block, while `kept` - 1 others are asked for at most.
    Raises InputError where the terms' ranks sum to more.
    """

    def write(aside: Path) -> None:
        from rnr_dist.weights.composition import checkpoint_shapes, padded, save_adapter, stack

        factors = stack(model.terms, checkpoint_shapes(model.checkpoint))
        needed = max(a.shape[0] for a, _ in factors.values())
        if needed > rank:
            raise InputError(
                f"engines.lora_rank: found {rank}, expected at least {needed}, to which the ranks "
                "of the model's terms sum; or set engines.weights: reload"
            )
        save_adapter(
            aside,
            {module: padded(a, b, needed) for module, (a, b) in factors.items()},
            alpha=needed,
            base=model.checkpoint,
            trained_on=model.checkpoint_digest,
            side="forget",
        )

    with _cached(cache or node_folder("adapters"), model.digest, kept, write, 0) as folder:
        yield folder


def node_folder(kind: str) -> Path:
    """Where this user's processes on this node keep folders of that kind."""
    return Path(tempfile.gettempdir()) / f"rnr-{kind}-{os.getuid()}"


def require_room(place: Path, size: int) -> None:
    """Raises InputError where the disk of `place` has no room for one more copy of `size` bytes."""
    there = next(path for path in (place, *place.parents) if path.exists())
    free = shutil.disk_usage(there).free
    if free < size + SPARE_BYTES:
        raise InputError(
            f"{place}: found {free / GIB:.1f} GiB free; expected {(size + SPARE_BYTES) / GIB:.1f} "
            f"GiB for a merged copy of the model ({KEPT} of them are kept where there is room): "
            "make room, or set TMPDIR to a folder with more"
        )


def leave(cache: Path) -> int:
    """This process uses the cache no more; what is in it goes where no other does.

    Returns the bytes that were freed.
    """
    mark = _held.pop(cache, None)
    if mark is None:
        return 0
    with FileLock(cache / "lock"):
        mark.release()
        Path(mark.lock_file).unlink(missing_ok=True)
        if in_use(cache):
            return 0
        freed = _bytes(cache)
        for entry in _entries(cache):
            _remove(entry)
    return freed


def leave_all() -> None:
    """This process uses no cache of this node any more."""
    for cache in [*_held]:
        with contextlib.suppress(OSError):  # someone else has removed it
            leave(cache)


def clean(cache: Path, dry: bool) -> int | None:
    """Remove a cache that no process uses; the bytes that it took, None where one does.

    dry: only say it.
    """
    if not cache.is_dir() or cache.is_symlink() or cache.stat().st_uid != os.getuid():
        return 0
    with FileLock(cache / "lock"):
        if in_use(cache):
            return None
        size = _bytes(cache)
        if not dry:
            shutil.rmtree(cache)
    return size


def in_use(cache: Path) -> bool:
    """Whether a living process has marked itself as a user; marks of dead ones are removed."""
    alive = False
    for path in sorted(cache.glob(f"{USER}*")):
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            alive = True
            continue
        path.unlink(missing_ok=True)
        lock.release()
    return alive


@contextlib.contextmanager
def _cached(
    cache: Path, name: str, kept: int, write: Callable[[Path], None], size: int
) -> Iterator[Path]:
    """`cache`/`name`, written if it is not there as it was written; of the others the most recent
    stay. size: bytes that it will take, for which others go where the disk is full."""
    from rnr_dist.run.directory import replacing_folder, write_json

    private_folder(cache)
    with FileLock(cache / "lock"):
        _mark(cache)
        folder, note = cache / name, _note(cache, name)
        if not _as_written(folder, note):
            _remove(folder)
            if size:
                _make_room(cache, size)
            with replacing_folder(folder) as aside:
                write(aside)
            write_json(note, _stamps(folder))  # last: what has no note was not finished
        os.utime(folder)
        for old in [entry for entry in _entries(cache) if entry != folder][kept - 1 :]:
            _remove(old)
        yield folder


def _mark(cache: Path) -> None:
    """Among the cache's users is this process, until it ends or `leave`s."""
    if not _held:
        atexit.register(leave_all)
    if cache not in _held:
        # Taken in one thread of an engine, given back in another.
        _held[cache] = FileLock(cache / f"{USER}{os.getpid()}", thread_local=False)
        _held[cache].acquire(timeout=0)


def _note(cache: Path, name: str) -> Path:
    return cache / f"{name}.json"


def _stamps(folder: Path) -> dict[str, list[int]]:
    """What the file system says of each file of a folder."""
    from rnr_dist.run.digests import stamp

    return {path.name: list(stamp(path)) for path in sorted(folder.iterdir())}


def _as_written(folder: Path, note: Path) -> bool:
    """Whether nothing was written to, added to or taken from a folder since it was finished.

    Times and inodes tell, so a model that is loaded again costs no reading of its weights.
    """
    from rnr_dist.run.directory import read_json

    if not (folder.is_dir() and note.is_file()):
        return False
    try:
        return bool(read_json(note) == _stamps(folder))
    except InputError:
        return False


def _make_room(cache: Path, size: int) -> None:
    """Remove what was used longest ago until there is room. Raises InputError where that fails."""
    for old in reversed(_entries(cache)):
        if shutil.disk_usage(cache).free >= size + SPARE_BYTES:
            return
        _remove(old)
    require_room(cache, size)


def _entries(cache: Path) -> list[Path]:
    """The folders in a cache, half-written ones too; the one used last first."""
    found = [path for path in cache.iterdir() if path.is_dir()]
    return sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)


def _remove(folder: Path) -> None:
    _note(folder.parent, folder.name).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def _bytes(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())
