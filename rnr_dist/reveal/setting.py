"""What the rooms of a search share: everything that it works with, and its arm table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from rnr_dist.bench import Bench
from rnr_dist.config.reveal import Reveal
from rnr_dist.measures.continuations import Asked
from rnr_dist.tasks.task import Task
from rnr_dist.types import Arm, Context, Split


@dataclass(frozen=True)
class Setting:
    """All that a search works with; `folder` holds its event log and everything that it kept."""

    bench: Bench
    task: Task
    folder: Path

    @property
    def reveal(self) -> Reveal:
        """The config's section."""
        return self.bench.config.reveal

    @property
    def at_once(self) -> int:
        """Pulls under way; what is not `default` mode waits for each."""
        return self.reveal.in_flight if self.reveal.mode == "default" else 1

    @property
    def held(self) -> int:
        """Pulls that generators can hold."""
        engines = self.bench.config.engines
        return engines.greatest * engines.in_flight

    @property
    def spare(self) -> int:
        """Pulls under way beyond those."""
        return max(0, self.at_once - self.held)

    @cached_property
    def reveal_contexts(self) -> Sequence[Context]:
        """Contexts that arms are evaluated on."""
        return self.task.contexts(Split.REVEAL, "forget")

    @cached_property
    def train_contexts(self) -> Sequence[Context]:
        """The contexts C that the forget set answers."""
        return self.task.contexts(Split.TRAIN, "forget")

    def asked(self, instruction: str, contexts: Sequence[Context], pull_id: str = "") -> Asked:
        """Response queries f(C, P): the instruction put before each context."""
        style, tokenizer = self.reveal.query, self.bench.tokenizer
        prompts = [self.task.prompt(c, instruction, style, tokenizer) for c in contexts]
        return Asked(self.bench.config.task.name, contexts, prompts, instruction, pull_id)


@dataclass(frozen=True)
class Table:
    """The decoded arms and their bandit features (arms x hidden), row by row."""

    arms: list[Arm]
    features: np.ndarray
