"""Who wins among candidate models: Ray Tune trials under the rules.

In: named candidates and the step that they would take. Out: the winner with every trial.
Invariant: all candidates are read once and the best of them again on fresh samples, which alone
decide; so no winner owes its place to luck in the ranking.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rnr_dist.config.schema import Config
from rnr_dist.generate.cluster_pool import PoolHandle
from rnr_dist.machine.trials import run_trials
from rnr_dist.release.probe import Probe, read_model, reading_path
from rnr_dist.release.rules import Reading, Step, Verdict, judge, pooled, ranked
from rnr_dist.score.actors import Scorer
from rnr_dist.types import ModelRef


@dataclass(frozen=True)
class Trial:
    """One reading of a candidate and what the rules said; `draw` is 1 where samples were fresh."""

    candidate: str
    draw: int
    verdict: Verdict

    def row(self) -> dict[str, Any]:
        """The trial in a table of trials: the verdict's fields stand beside its own."""
        verdict = {**vars(self.verdict), "feasible": self.verdict.feasible}
        return {"candidate": self.candidate, "draw": self.draw, **verdict}


@dataclass(frozen=True)
class Choice:
    """The winner, its fresh reading and all trials; an infeasible verdict marks the fallback."""

    candidate: str
    reading: Reading
    verdict: Verdict
    trials: tuple[Trial, ...]


@dataclass(frozen=True)
class Reader:
    """Reads candidates through the pool, several at a time; readings are files in `folder`."""

    config: Config
    probe: Probe
    pool: PoolHandle
    scorer: Scorer
    folder: Path

    @property
    def _together(self) -> int:
        """Candidates that are read at the same time: as many as the engines hold."""
        engines = self.config.engines
        return engines.count * (engines.loras if engines.weights == "lora" else 1)

    def read(self, model: ModelRef) -> Reading:
        """A model as it is, whatever rules say."""
        return read_model(model, self.probe, self.pool, self.scorer, self.folder)

    def choose(
        self,
        name: str,
        step: Step,
        models: Mapping[str, ModelRef],
        also: Sequence[str] = (),
    ) -> Choice:
        """The candidate that takes `step` best.

        `name` tells this search's trials from others'. The best `reread` and `also` are read again.
        """
        rules = self.config.release
        readings = self.read_all(name, models, range(1), step)
        trials = deciding = self._trials(readings, 0, step)
        if rules.reread:
            order = ranked([trial.verdict for trial in trials], step.kind, rules)
            best = [trials[position].candidate for position in order[: rules.reread]]
            again = {label: models[label] for label in dict.fromkeys([*best, *also])}
            readings = self.read_all(name, again, range(1, 1 + rules.reread_draws), step)
            deciding = self._trials(readings, 1, step)
            trials = [*trials, *deciding]
        winner = deciding[ranked([trial.verdict for trial in deciding], step.kind, rules)[0]]
        reading = readings[winner.candidate]
        if reading.forget is None:
            # A fallback that was never generated from: later steps compare with it, so read it all.
            model = models[winner.candidate]
            reading = read_model(model, self.probe, self.pool, self.scorer, self.folder, "whole")
        return Choice(winner.candidate, reading, winner.verdict, tuple(trials))

    def read_all(
        self, name: str, models: Mapping[str, ModelRef], draws: range, step: Step
    ) -> dict[str, Reading]:
        """Readings of these candidates, each over all samples of these draws."""
        for draw in draws:
            self._run_trials(name, models, draw, step)
        return {
            label: pooled(
                [
                    read_model(model, self.probe, self.pool, self.scorer, self.folder, draw)
                    for draw in draws
                ]
            )
            for label, model in models.items()
        }

    def _trials(self, readings: Mapping[str, Reading], draw: int, step: Step) -> list[Trial]:
        rules = self.config.release
        return [Trial(label, draw, judge(read, step, rules)) for label, read in readings.items()]

    def _run_trials(self, name: str, models: Mapping[str, ModelRef], draw: int, step: Step) -> None:
        """One Tune trial for each candidate that has no reading yet; it ends as a file."""
        from ray import tune

        missing = [
            label
            for label, model in models.items()
            if not reading_path(self.folder, model, draw).exists()
        ]
        if not missing:
            return

        def trial(
            setting: dict[str, Any], reader: Reader, models: Mapping[str, ModelRef], step: Step
        ) -> None:
            rules = reader.config.release
            reading = read_model(
                models[setting["given"]],
                reader.probe,
                reader.pool,
                reader.scorer,
                reader.folder,
                draw,
                step,
                rules,
            )
            verdict = judge(reading, step, rules)
            tune.report({"forget": verdict.forget, "utility": verdict.utility})

        run_trials(
            trial,
            missing,
            f"{name}-{draw}",
            self.folder / "tune",
            self._together,
            max_failures=1,
            reader=self,
            models=dict(models),
            step=step,
        )
