"""One method of unlearning, ready to run on any sequences with any of its settings.

In: sequences and a training. Out: an `EpochRun`. Invariant: it holds plain data besides its
`trainings`, so that Ray can carry it to a trial.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rnr_dist.config.icu import IcuConfig, IcuMethodName
from rnr_dist.config.training import Training
from rnr_dist.generate.requests import ReadLikelihood
from rnr_dist.icu.items import retained_texts, unlearning_items
from rnr_dist.icu.launch import EpochRun, EpochTrainings
from rnr_dist.icu.levels import Levels
from rnr_dist.icu.pairing import apart
from rnr_dist.train.collate import Example
from rnr_dist.types import ModelRef, TokenSequence


@dataclass(frozen=True)
class Unlearner:
    """`pairs` goes by a sequence's id; `general` is text that may be retained; `known` is the
    model that has memorised; `scorer` is empty where nothing leaves the epochs."""

    name: IcuMethodName
    config: IcuConfig
    pairs: Mapping[str, Sequence[TokenSequence]]
    pool: Sequence[TokenSequence]
    general: Sequence[ReadLikelihood]
    known: ModelRef
    levels: Levels
    scorer: str
    trainings: EpochTrainings

    def forget(
        self, label: str, sequences: Sequence[TokenSequence], training: Training
    ) -> EpochRun:
        """Train until `sequences` are forgotten; raises InputError where the loss is not finite."""
        task = self.config.task
        items = unlearning_items(
            self.name,
            training,
            sequences,
            self.pairs,
            self.pool,
            task.prefix_tokens,
            self.config.seed,
            self.levels.tokens,
        )
        retained: list[Example] = []
        if getattr(training.objective, "retain", 0):
            retained = retained_texts(
                apart(self.pool, sequences, self.config.pairing),
                self.general,
                self.config.methods.retained,
                self.config.seed,
            )
        return self.trainings.run(
            label,
            sequences,
            items,
            training,
            self.known,
            self.levels.average,
            "forgotten",
            self.config.stopping.epochs,
            self.scorer,
            self.levels.of(sequences) if self.scorer else (),
            retained,
        )
