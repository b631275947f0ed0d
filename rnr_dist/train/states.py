"""The state of a training under way: saved with a report, taken up when its workers start again.

In: a DeepSpeed engine and how far it is. Out: a Ray Train checkpoint, and the same state from the
last one. Invariant: Ray Train registers a checkpoint when every rank's part has arrived whole, so
none that was half written is ever loaded; none holds a weight that is not finite; and reading one
runs no code that it brings.
"""

from __future__ import annotations

import importlib
import os
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from rnr_dist.errors import InputError
from rnr_dist.run.codec import from_plain, to_plain

TAG = "state"
# What DeepSpeed's states hold beside tensors and plain values. A pickle that names anything else is
# none of ours: it could call any function of this machine while it is read.
HELD = (
    "deepspeed.utils.tensor_fragment.fragment_address",
    "deepspeed.runtime.fp16.loss_scaler.LossScaler",
    "deepspeed.runtime.zero.config.ZeroStageEnum",
)
FORCED = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"  # read by each torch.load
Kept = TypeVar("Kept")  # a dataclass with a default for each field


@dataclass
class Progress:
    """Steps done, the tokens and seconds that they took, and the losses reported."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)


def due(step: int, steps: int, parts: int) -> bool:
    """Whether `step` (1 the first) ends one of `parts` equal parts of a training of `steps`."""
    return step * parts // steps > (step - 1) * parts // steps


@contextmanager
def saved(engine: Any, progress: Any) -> Iterator[Any]:
    """This rank's part of a checkpoint, to be reported inside the block; all ranks call.

    Trained weights, optimiser and learning rate; None where a weight is not finite.
    """
    from ray.train import Checkpoint

    if not finite(engine):
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        engine.save_checkpoint(
            folder, tag=TAG, client_state=to_plain(progress), exclude_frozen_parameters=True
        )
        yield Checkpoint.from_directory(folder)


def restored(engine: Any, kind: type[Kept]) -> Kept:
    """How far the last checkpoint of this training is, with the engine in its state."""
    from ray.train import get_checkpoint

    checkpoint = get_checkpoint()
    if checkpoint is None:
        return kind()
    with checkpoint.as_directory() as folder, reading_only():
        # Not strict: frozen weights are not in it.
        _, state = engine.load_checkpoint(folder, tag=TAG, load_module_strict=False)
    return from_plain(kind, state)


@contextmanager
def reading_only() -> Iterator[None]:
    """Within the block torch unpickles tensors, plain values and `HELD`, whatever it is told.

    DeepSpeed 0.19 asks it to unpickle anything (`weights_only=False`).
    """
    import torch

    classes = []
    for name in HELD:
        module, _, kind = name.rpartition(".")
        classes.append(getattr(importlib.import_module(module), kind))
    before = os.environ.get(FORCED)
    os.environ[FORCED] = "1"
    try:
        with torch.serialization.safe_globals(classes):
            yield
    finally:
        if before is None:
            del os.environ[FORCED]
        else:
            os.environ[FORCED] = before


def damage(storage: Path) -> str:
    """What is wrong with a kept state below `storage`; "" where each is whole, or there is none.

    Raises InputError for a state that names what no state of a training holds. Nothing is
    unpickled.
    """
    from torch.serialization import get_unsafe_globals_in_checkpoint

    for path in sorted(storage.glob("*/checkpoint_*/**/*.pt")):
        try:
            with zipfile.ZipFile(path) as parts:
                broken = parts.testzip()
            foreign = sorted({*get_unsafe_globals_in_checkpoint(str(path))} - {*HELD})
        except (zipfile.BadZipFile, OSError, RuntimeError, ValueError, EOFError) as error:
            return f"{path}: {error}"
        if foreign:
            raise InputError(
                f"{path}: found a state that would call {foreign[0]}; expected one that this "
                f"training wrote: remove {storage}"
            )
        if broken:
            return f"{path}: {broken} is not what was written"
    return ""


def finite(engine: Any) -> bool:
    """Whether every trained weight is, on all ranks, each of which asks its part (ZeRO-3)."""
    trained = (value for value in engine.module.parameters() if value.requires_grad)
    weights = [getattr(value, "ds_tensor", value) for value in trained]
    return everywhere(all(bool(value.isfinite().all()) for value in weights), engine.device)


def everywhere(true: bool, device: Any) -> bool:
    """Whether it is true on all ranks; all call."""
    import torch

    found = torch.tensor(float(true), device=device)
    torch.distributed.all_reduce(found, torch.distributed.ReduceOp.MIN)
    return bool(found)
