"""The state of a training under way: saved with a report, taken up when its workers start again.

In: a DeepSpeed engine and how far it is. Out: a Ray Train checkpoint, and the same state from the
last one. Invariant: Ray Train registers a checkpoint when every rank's part has arrived whole, so
none that was half written is ever loaded; and none holds a weight that is not finite.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from rnr_dist.run.codec import from_plain, to_plain

TAG = "state"
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
    with checkpoint.as_directory() as folder:
        # Not strict: frozen weights are not in it.
        _, state = engine.load_checkpoint(folder, tag=TAG, load_module_strict=False)
    return from_plain(kind, state)


def finite(engine: Any) -> bool:
    """Whether every trained weight is, on all ranks."""
    weights = [value for value in engine.module.parameters() if value.requires_grad]
    return everywhere(all(bool(value.isfinite().all()) for value in weights), engine.device)


def everywhere(true: bool, device: Any) -> bool:
    """Whether it is true on all ranks; all call."""
    import torch

    found = torch.tensor(float(true), device=device)
    torch.distributed.all_reduce(found, torch.distributed.ReduceOp.MIN)
    return bool(found)
