"""Trainings by epochs as the launcher of `train.trainings` takes them: memorising, unlearning.

In: items, a training, a plan. Out: an `EpochRun`: the model of the best epoch and a row an epoch.
Invariant: done once, as every training; what decides when it ends is part of its fingerprint.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rnr_dist.config.training import Training
from rnr_dist.icu.job import EpochJob, EpochPlan
from rnr_dist.icu.worker import epoch_loop
from rnr_dist.run.codec import to_plain
from rnr_dist.run.directory import read_json
from rnr_dist.train.collate import Item
from rnr_dist.train.job import SUMMARY, Job
from rnr_dist.train.trainings import Order, Report, Trainings
from rnr_dist.types import Adapter, ModelRef
from rnr_dist.weights.checkpoints import checkpoint_digest
from rnr_dist.weights.composition import adapter_digest


@dataclass(frozen=True)
class EpochRun:
    """The model of the best epoch, which epoch that is, and every epoch's row (0: before)."""

    model: ModelRef
    best: int
    epochs: tuple[dict[str, Any], ...]
    summary: dict[str, Any]


def train_by_epochs(
    trainings: Trainings,
    name: str,
    items: Sequence[Item],
    training: Training,
    model: ModelRef,
    plan: EpochPlan,
) -> EpochRun:
    """Train `model` on `items` by epochs and read `plan.sequences` after each.

    `items[i]` is left out while sequence i has left. Raises InputError as `Trainings.once` does.
    """
    output = trainings.folder / "models" / name
    order = EpochOrder(trainings.job(output, training, model), items, plan)
    made = trainings.once(order)
    summary = read_json(output / SUMMARY)
    return EpochRun(made, summary["best"], tuple(summary["epochs"]), summary)


@dataclass(frozen=True)
class EpochOrder(Order[ModelRef]):
    """A model that is trained until it recalls enough, or no more."""

    plan: EpochPlan

    @property
    def loop(self) -> Callable[[dict[str, Any]], object]:
        return epoch_loop

    @property
    def inputs(self) -> Any:
        return to_plain(
            [
                [[one.id, one.prefix_tokens] for one in self.plan.sequences],
                self.plan.counted,
                self.plan.ending,
                self.plan.leaving.levels,
                self.plan.leaving.rule if self.plan.leaving.levels else None,
                self.plan.leaving.scorer,
                [one.token_ids for one in self.plan.retained],
            ]
        )

    def put(self, store: Callable[[Any], Any]) -> tuple[Job, int]:
        job, plan, most = self.job, self.plan, self.job.training.max_tokens
        retained = tuple(text.cut(most) for text in plan.retained)
        return (
            EpochJob(
                **{
                    **vars(job),
                    "items": store([item.cut(most) for item in self.items]),
                    "plan": store(replace(plan, retained=retained)),
                }
            ),
            plan.ending.epochs,
        )

    def heard(self, report: Report) -> tuple[dict[str, float], int, str]:
        figures = {key: value for key, value in report.items() if key not in ("epoch", "step")}
        word = ""
        if "extraction" in report:
            word = f"MA {report['memorisation']:.3f}"
            if math.isfinite(report["extraction"]):
                word = f"EL {report['extraction']:.3f}, {word}"
        return figures, int(report["epoch"]), word

    def diverged(self, report: Report, storage: Path) -> tuple[str, str]:
        left = "No model was kept"
        if self.job.output.exists():
            left = f"The best model so far is kept in {self.job.output}"
        return f"step {report['step']:.0f}, epoch {report['epoch']:.0f}", left

    def made(self) -> ModelRef:
        """A checkpoint of its own, or the model that was trained on and an adapter."""
        base, output = self.job.base, self.job.output
        if self.job.training.parameters == "full":
            return ModelRef(str(output), checkpoint_digest(output))
        adapter = Adapter(str(output), adapter_digest(output), base.digest, "forget")
        return base.plus(1.0, adapter)
