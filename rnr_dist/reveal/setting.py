"""What the rooms of a search share: everything that it works with, and its arm table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rnr_dist.bench import Machine
from rnr_dist.config.schema import Config
from rnr_dist.generate.cluster_pool import PoolHandle
from rnr_dist.reveal.instructions import query
from rnr_dist.score.actors import Scorer
from rnr_dist.tasks.toxicity import CHALLENGING, TaskData
from rnr_dist.types import Arm, Context, ModelRef, Split


@dataclass(frozen=True)
class Setting:
    """All that a search works with."""

    config: Config
    model: ModelRef
    pool: PoolHandle
    scorer: Scorer
    tokenizer: Any
    reveal_contexts: Sequence[Context]
    train_contexts: Sequence[Context]
    folder: Path

    @classmethod
    def of(cls, config: Config, data: TaskData, machine: Machine, folder: Path) -> Setting:
        """A search on this machine over the task's `reveal` and `train` contexts."""
        return cls(
            config,
            machine.base,
            machine.pool,
            machine.scorer,
            machine.tokenizer,
            data.of(Split.REVEAL, CHALLENGING),
            data.of(Split.TRAIN, CHALLENGING),
            folder,
        )

    def prompts(self, instruction: str, contexts: Sequence[Context]) -> list[str]:
        """Response queries f(C, P): the instruction put before each context."""
        style = self.config.reveal.query
        return [query(instruction, c.text, style, self.tokenizer) for c in contexts]


@dataclass(frozen=True)
class Table:
    """The decoded arms and their bandit features (arms x hidden), row by row."""

    arms: list[Arm]
    features: np.ndarray
