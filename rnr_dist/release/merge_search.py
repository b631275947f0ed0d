"""One merge weight, searched by Ray Tune under the rules.

In: a step, an adapter and candidate weights. Out: the chosen weight with every trial. Invariant:
what was read is a file named by model and draw, written whole, so nothing is ever read twice and
the winner is decided on samples that no ranking has seen.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rnr_dist.config import Coefficients, Config, Release
from rnr_dist.evaluate.continuations import continuation_requests, settings_of, to_samples
from rnr_dist.evaluate.fluency import fluency_measures
from rnr_dist.evaluate.perplexity import perplexity, windows
from rnr_dist.generate.cluster_pool import PoolHandle
from rnr_dist.generate.requests import Request
from rnr_dist.release.rules import Reading, Step, Verdict, judge, pooled, ranked, utility_shortfall
from rnr_dist.run_dir import read_json, write_json
from rnr_dist.score.actors import Scorer
from rnr_dist.stats import ClusterMean
from rnr_dist.tasks.toxicity import CHALLENGING, TaskData, toxicity_measures
from rnr_dist.types import Adapter, Context, ModelRef, Split

TRIAL_CPUS = 0.01  # a trial only asks the pool; engines do the work


@dataclass(frozen=True)
class Probe:
    """What every candidate is read on: the `search` split's contexts and windows, tokenised."""

    contexts: tuple[Context, ...]
    continuations: tuple[Request, ...]
    texts: Mapping[str, tuple[Request, ...]]
    task: str
    toxic_above: float


@dataclass(frozen=True)
class Trial:
    """One candidate: its weight, what the rules said; `draw` is 1 where samples were fresh."""

    step: str
    coefficient: float
    draw: int
    verdict: Verdict

    def to_json(self) -> dict[str, Any]:
        verdict = {**asdict(self.verdict), "feasible": self.verdict.feasible}
        return {
            "step": self.step,
            "coefficient": self.coefficient,
            "draw": self.draw,
            **verdict,
        }


@dataclass(frozen=True)
class Choice:
    """The winner, its fresh reading and all trials. `feasible` False marks the fallback."""

    coefficient: float
    reading: Reading
    verdict: Verdict
    trials: tuple[Trial, ...]


def make_probe(config: Config, data: TaskData, tokenizer: Any) -> Probe:
    contexts = data.of(Split.SEARCH, CHALLENGING)
    sampling = settings_of(config.release.search)
    texts = {
        role: tuple(windows(passages, tokenizer, config.perplexity))
        for role, passages in data.texts(Split.SEARCH).items()
    }
    prompts = [context.text for context in contexts]
    return Probe(
        tuple(contexts),
        tuple(continuation_requests(prompts, tokenizer, sampling)),
        texts,
        config.task.name,
        config.task.toxic_above,
    )


def read_model(
    model: ModelRef,
    probe: Probe,
    pool: PoolHandle,
    scorer: Scorer,
    folder: Path,
    draw: int | Literal["whole"] = 0,
    step: Step | None = None,
    rules: Release | None = None,
) -> Reading:
    """Read a model on the probe, from its file if it was read before.

    The cheap measure runs first: where `step`'s utility rule is already missed, nothing is
    generated and `forget` stays None. `whole` is a draw of its own for a model of which that
    happened.
    """
    path = folder / f"{model.digest}-{draw}.json"
    if path.exists():
        return Reading.from_json(read_json(path))
    read = _read_texts(model, probe, pool, folder / f"{model.digest}-texts.json")
    reading = Reading(model.digest, read)
    if not (step and rules and utility_shortfall(reading, step, rules) > 0):
        answers = pool.run(model, list(probe.continuations))
        prompts = [context.text for context in probe.contexts]
        samples = to_samples(probe.contexts, prompts, answers, scorer, probe.task)
        toxic = toxicity_measures(samples, probe.contexts, probe.toxic_above)
        forget = toxic[f"toxicity/{CHALLENGING}/fraction_gt_{probe.toxic_above:g}"]
        reading = Reading(model.digest, read, forget, fluency_measures(samples, probe.contexts))
    write_json(path, reading.to_json())
    return reading


def _read_texts(
    model: ModelRef, probe: Probe, pool: PoolHandle, path: Path
) -> dict[str, ClusterMean]:
    """Perplexity by domain. Nothing in it is drawn, so one reading serves all draws."""
    if path.exists():
        return {role: ClusterMean.from_json(found) for role, found in read_json(path).items()}
    read = {role: perplexity(pool.run(model, list(asked))) for role, asked in probe.texts.items()}
    write_json(path, {role: measure.to_json() for role, measure in read.items()})
    return read


def candidates(coefficients: Coefficients) -> list[float]:
    """Geometrically spaced weights, both ends included, to three digits, each once."""
    spaced = np.geomspace(coefficients.low, coefficients.high, coefficients.trials)
    return list(dict.fromkeys(float(f"{value:.3g}") for value in spaced))


def search_weight(
    name: str,
    step: Step,
    model: ModelRef,
    adapter: Adapter,
    coefficients: Coefficients,
    config: Config,
    probe: Probe,
    pool: PoolHandle,
    scorer: Scorer,
    folder: Path,
) -> Choice:
    """Choose the weight of `adapter` in `model`: all candidates once, the best again on fresh
    samples, the winner by the fresh readings alone."""
    rules = config.release
    sign = 1.0 if step.kind == "add" else -1.0
    weights = candidates(coefficients)
    models = {weight: model.plus(sign * weight, adapter) for weight in weights}

    def read_all(chosen: Sequence[float], draws: range) -> dict[float, Reading]:
        """Readings of these weights, each over all samples of these draws."""
        for draw in draws:
            _run_trials(name, chosen, models, probe, pool, scorer, folder, draw, step, config)
        return {
            weight: pooled(
                [read_model(models[weight], probe, pool, scorer, folder, draw) for draw in draws]
            )
            for weight in chosen
        }

    def trials_of(readings: Mapping[float, Reading], fresh: int) -> list[Trial]:
        return [Trial(name, w, fresh, judge(found, step, rules)) for w, found in readings.items()]

    readings = read_all(weights, range(1))
    trials = deciding = trials_of(readings, 0)
    order = ranked([trial.verdict for trial in trials], step.kind, rules)
    if rules.reread:
        best = [weights[position] for position in order[: rules.reread]]
        readings = read_all(best, range(1, 1 + rules.reread_draws))
        deciding = trials_of(readings, 1)
        trials = [*trials, *deciding]
    winner = deciding[ranked([trial.verdict for trial in deciding], step.kind, rules)[0]]
    reading = readings[winner.coefficient]
    if reading.forget is None:
        # A fallback that was never generated from: later steps compare with it, so read it whole.
        reading = read_model(models[winner.coefficient], probe, pool, scorer, folder, "whole")
    return Choice(winner.coefficient, reading, winner.verdict, tuple(trials))


def _run_trials(
    name: str,
    weights: Sequence[float],
    models: dict[float, ModelRef],
    probe: Probe,
    pool: PoolHandle,
    scorer: Scorer,
    folder: Path,
    draw: int,
    step: Step,
    config: Config,
) -> None:
    """Readings of all weights by concurrent Tune trials; each ends as a file in `folder`."""
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # Tune 2.60 prints its tables whatever `verbose` says
    from ray import tune

    missing = [w for w in weights if not (folder / f"{models[w].digest}-{draw}.json").exists()]
    if not missing:
        return

    def trial(
        setting: dict[str, Any], models: dict[float, ModelRef], probe: Probe, step: Step
    ) -> None:
        reading = read_model(
            models[setting["coefficient"]],
            probe,
            pool,
            scorer,
            folder,
            draw,
            step,
            config.release,
        )
        verdict = judge(reading, step, config.release)
        tune.report({"forget": verdict.forget, "utility": verdict.utility})

    tuner = tune.Tuner(
        tune.with_resources(
            tune.with_parameters(trial, models=models, probe=probe, step=step),
            {"cpu": TRIAL_CPUS},
        ),
        param_space={"coefficient": tune.grid_search(missing)},
        tune_config=tune.TuneConfig(max_concurrent_trials=config.engines.count),
        run_config=tune.RunConfig(
            name=f"{name}-{draw}",
            storage_path=str(folder / "tune"),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=1),
        ),
    )
    for result in tuner.fit():
        if result.error:
            raise result.error
