"""Weights of model references as local folders that an engine loads: checkpoints and adapters.

In: a model reference. Out: a folder on this node. Invariant: a folder under its digest is whole;
only the most recent few are kept, and no checkpoint vanishes while an engine of this node reads it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock

from rnr_dist.run.private import private_folder
from rnr_dist.types import ModelRef

KEPT = 3  # merged copies on a node's disk; each is as large as the checkpoint


@contextlib.contextmanager
def weights_folder(model: ModelRef, cache: Path | None = None) -> Iterator[Path]:
    """The checkpoint folder of `model`, to be read inside the block."""
    if not model.terms:
        yield Path(model.checkpoint)
        return

    def write(aside: Path) -> None:
        from rnr_dist.weights.composition import materialise

        materialise(model, aside)

    with _cached(cache or _cache("weights"), model.digest, KEPT, write) as folder:
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
        from rnr_dist.errors import InputError
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
            role="forget",
        )

    with _cached(cache or _cache("adapters"), model.digest, kept, write) as folder:
        yield folder


def _cache(kind: str) -> Path:
    """This user's folder on this node. Raises InputError where another user made it first."""
    return private_folder(Path(tempfile.gettempdir()) / f"rnr-{kind}-{os.getuid()}")


@contextlib.contextmanager
def _cached(cache: Path, name: str, kept: int, write: Callable[[Path], None]) -> Iterator[Path]:
    """`cache`/`name`, written if it is not there; of the others the most recent stay."""
    from rnr_dist.run.directory import replacing_folder

    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / "lock"):
        folder = cache / name
        if not folder.exists():
            with replacing_folder(folder) as aside:
                write(aside)
        os.utime(folder)
        others = sorted(
            (path for path in cache.iterdir() if path.is_dir() and path != folder),
            key=lambda path: path.stat().st_mtime,
            reverse=True,
        )
        for old in others[kept - 1 :]:
            shutil.rmtree(old, ignore_errors=True)
        yield folder
