"""Weights of model references as local checkpoint folders that an engine reloads.

In: a model reference. Out: a folder on this node. Invariant: a folder under its digest is whole;
only the most recent few are kept, and none vanishes while an engine of this node reads it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock

from rnr_dist.types import ModelRef

KEPT = 3  # merged copies on a node's disk; each is as large as the checkpoint


@contextlib.contextmanager
def weights_folder(model: ModelRef, cache: Path | None = None) -> Iterator[Path]:
    """The checkpoint folder of `model`, to be read inside the block."""
    if not model.terms:
        yield Path(model.checkpoint)
        return
    cache = cache or Path(tempfile.gettempdir()) / f"rnr-weights-{os.getuid()}"
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / "lock"):
        folder = cache / model.digest
        if not folder.exists():
            from rnr_dist.release.composition import materialise
            from rnr_dist.run_dir import replacing_folder

            with replacing_folder(folder) as aside:
                materialise(model, aside)
        os.utime(folder)
        others = sorted(
            (path for path in cache.iterdir() if path.is_dir() and path != folder),
            key=lambda path: path.stat().st_mtime,
            reverse=True,
        )
        for old in others[KEPT - 1 :]:
            shutil.rmtree(old, ignore_errors=True)
        yield folder
