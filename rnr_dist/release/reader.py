"""Candidates read on the `search` split, several at a time: utility first, then the target.

In: a bench, a task, models. Out: `Reading`s. Invariant: what was read is a file named by model and
draw, written whole, so nothing is ever read twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rnr_dist.bench import Bench
from rnr_dist.config.release import Release
from rnr_dist.machine.trials import Search, run_trials
from rnr_dist.measures.measure import Role
from rnr_dist.release.rules import MergeStep, Reading, judge, pooled, utility_shortfall
from rnr_dist.run.directory import read, write
from rnr_dist.stats import ClusterMean
from rnr_dist.tasks.task import Task
from rnr_dist.types import ModelRef, Split

# `whole` is a draw of its own for a model whose first draw had lost before it generated.
Draw = int | Literal["whole"]
FIGURES = ("forget", "utility", "violation")  # of a verdict, as MLflow hears of it


@dataclass(frozen=True)
class Reader:
    """Reads models through the endpoint; readings are files in `folder`; Ray carries it.

    within: rules in place of the config's, of a search that has to keep to a budget.
    """

    bench: Bench
    task: Task
    folder: Path
    within: Release | None = None

    @property
    def rules(self) -> Release:
        return self.within or self.bench.config.release

    def read(self, model: ModelRef, draw: Draw = 0, step: MergeStep | None = None) -> Reading:
        """A model's reading, from its file if it was read before.

        The cheap measures run first: where `step`'s utility rule is already missed, nothing is
        generated and `forget` stays None.
        """
        path = self._path(model, draw)
        if path.exists():
            return read(path, Reading)
        utility = self._utility(model)
        reading, rules = Reading(model.digest, utility), self.rules
        if not (step and utility_shortfall(reading, step, rules) > 0):
            found = self.task.read_target(self.bench, model, Split.SEARCH, rules.search)
            read_by = {**utility, **found}  # a guard may be read with either half
            guards = {
                measure.name: read_by[measure.name] for measure in self.task.measures.of(Role.GUARD)
            }
            reading = Reading(model.digest, utility, found[self.task.measures.target.name], guards)
        write(path, reading)
        return reading

    def read_all(
        self, name: str, models: Mapping[str, ModelRef], draws: range, step: MergeStep
    ) -> dict[str, Reading]:
        """Readings of these candidates, each over all samples of these draws.

        name: tells these trials of Ray Tune from others.
        """
        for draw in draws:
            self._run_trials(f"{name}-{draw}", models, draw, step)
        return {
            label: pooled([self.read(model, draw) for draw in draws])
            for label, model in models.items()
        }

    @property
    def together(self) -> int:
        """Candidates that are read at the same time: as many as the engines hold."""
        engines = self.bench.config.engines
        return engines.count * (engines.loras if engines.weights == "lora" else 1)

    def _path(self, model: ModelRef, draw: Draw) -> Path:
        return self.folder / f"{model.digest}-{draw}.json"

    def _utility(self, model: ModelRef) -> dict[str, ClusterMean]:
        """Nothing in it is drawn, so one reading serves all draws."""
        path = self.folder / f"{model.digest}-utility.json"
        if not path.exists():
            write(path, self.task.read_utility(self.bench, model, Split.SEARCH))
        return read(path, dict[str, ClusterMean])

    def _run_trials(
        self, name: str, models: Mapping[str, ModelRef], draw: int, step: MergeStep
    ) -> None:
        """One Tune trial for each candidate that has no reading yet; it ends as a file."""
        from ray import tune

        missing = [label for label, model in models.items() if not self._path(model, draw).exists()]
        if not missing:
            return
        # Started here, so that trials are carried handles and start nothing of their own.
        _ = self.bench.endpoint, self.bench.tokenizer, self.task.oracle and self.bench.scorer

        def trial(
            setting: dict[str, Any], reader: Reader, models: Mapping[str, ModelRef], step: MergeStep
        ) -> None:
            reading = reader.read(models[setting["given"]], draw, step)
            verdict = judge(reading, step, reader.rules)
            told = {key: getattr(verdict, key) for key in FIGURES}
            rule = f"rule {verdict.rule}" if verdict.rule else f"misses {', '.join(verdict.broken)}"
            tune.report({**told, "rules": rule})

        tracker = self.bench.tracker

        class Told(tune.Callback):
            """Each candidate is a run in MLflow as soon as it is read."""

            def on_trial_result(
                self, iteration: int, trials: list[Any], trial: Any, result: Any, **info: Any
            ) -> None:
                label = trial.config["given"]
                weights = [term.coefficient for term in models[label].terms]
                called = trial_name(name.rpartition("-")[0], label, draw, weights)
                with tracker.nested(called, {"weights": weights, "draw": draw}):
                    tracker.metrics({key: result[key] for key in FIGURES})
                    tracker.tag("rules", result["rules"])

        search = Search(name, self.folder / "tune", self.together, 1, (Told(),))
        run_trials(trial, missing, search, reader=self, models=dict(models), step=step)


def trial_name(step: str, label: str, draw: int, weights: Sequence[float]) -> str:
    """What a trial is called in MLflow: its step, its weights, and whether samples were fresh.

    `trial -f1 0.02`, `trial joint 3: -2 +1 -0.02 (fresh 1)`.
    """
    told = f"trial {label}" if label.startswith(step) else f"trial {step} {label}"
    if label.startswith(step):
        told += ": " + " ".join(f"{weight:+g}" for weight in weights)
    return f"{told} (fresh {draw})" if draw else told
