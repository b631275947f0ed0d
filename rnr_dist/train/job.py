"""What a training's workers are given, as plain data.

In: config sections, a model, where the items lie. Out: a `Job`. Invariant: it can be pickled, and
with the same items it gives the same weights on any machine of one kind.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rnr_dist.config.training import Training, Workers
from rnr_dist.types import ModelRef

SUMMARY = "training.json"  # in the folder of what was trained: losses, tokens, seconds


@dataclass(frozen=True)
class Job:
    """One training. `items` is an object reference to a list of `Item`."""

    items: Any
    base: ModelRef
    training: Training
    workers: Workers
    output: Path
    seed: int
    trust_remote_code: bool = False
