"""One method of unlearning by epochs, ready to run on any sequences with any of its settings.

In: sequences and a training. Out: an `EpochRun`. Invariant: it holds what Ray can carry to a trial,
but for its `trainings`, whose listener may belong to the driver.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

from rnr_dist.bench import Bench
from rnr_dist.config.training import Training
from rnr_dist.icu.epochs import EpochRun, train_by_epochs
from rnr_dist.icu.job import Counted, Ending, EpochPlan, Leaving
from rnr_dist.icu.levels import Levels, find_levels
from rnr_dist.measures.similarity import scorer_folder
from rnr_dist.run.directory import RunDir
from rnr_dist.tasks.sequences import SequenceTask, known_model
from rnr_dist.train.collate import Item
from rnr_dist.train.materials import Materials, Need
from rnr_dist.train.trainings import Trainings
from rnr_dist.types import ModelRef, TokenSequence

SHARED = "icu"  # the stage that keeps what all methods share: the levels


class EpochMethod(Protocol):
    """What unlearning by epochs asks of a method (`methods.method.Method`)."""

    name: ClassVar[str]
    needs: ClassVar[frozenset[Need]]
    refined: ClassVar[bool]

    def items(self, adapter: str, materials: Materials, training: Training) -> Sequence[Item]:
        """One item a forget sequence, in their order."""
        ...


@dataclass(frozen=True)
class Unlearner:
    """known: the model that has memorised. levels: at which sequences leave, and all is done."""

    method: EpochMethod
    task: SequenceTask
    run: RunDir
    known: ModelRef
    levels: Levels
    trainings: Trainings

    @classmethod
    def of(
        cls, bench: Bench, task: SequenceTask, run: RunDir, method: EpochMethod, folder: Path
    ) -> Unlearner:
        """With the run's levels, which are read where they are not there yet."""
        known = known_model(bench, run)
        levels = find_levels(bench, task, known, run.stage(SHARED))
        return cls(method, task, run, known, levels, Trainings(bench, folder))

    @property
    def name(self) -> str:
        return self.method.name

    @property
    def bench(self) -> Bench:
        return self.trainings.bench

    def forget(
        self, label: str, sequences: Sequence[TokenSequence], training: Training
    ) -> EpochRun:
        """Train until `sequences` are forgotten; raises InputError where the loss is not finite."""
        config = self.bench.config
        given = self.task.materials_of(self.bench, self.run, sequences).only(self.method.needs)
        rule, stop = config.refinement, config.stopping
        leaving = Leaving(rule)
        if self.method.refined and rule.enabled:
            leaving = Leaving(rule, self.levels.of(sequences), scorer_folder(rule.scorer))
        plan = EpochPlan(
            tuple(sequences),
            Counted.by(config, self.task.counting),
            Ending("forgotten", self.levels.average, stop.epochs, stop.curves),
            leaving,
            given.retain if getattr(training.objective, "retain", 0) else (),
        )
        items = self.method.items(self.name, given, training)
        return train_by_epochs(self.trainings, label, items, training, self.known, plan)
