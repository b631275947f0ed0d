"""What every candidate is read on, and its reading: perplexities, toxicity, guards.

In: a model and the `search` split. Out: a `Reading`. Invariant: what was read is a file named by
model and draw, written whole, so nothing is ever read twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rnr_dist.config.schema import Config, Release
from rnr_dist.generate.cluster_pool import PoolHandle
from rnr_dist.generate.requests import Request
from rnr_dist.measures.continuations import continuation_requests, settings_of, to_samples
from rnr_dist.measures.fluency import fluency_measures
from rnr_dist.measures.perplexity import perplexity, windows
from rnr_dist.release.rules import Reading, Step, utility_shortfall
from rnr_dist.run.directory import read, write
from rnr_dist.score.actors import Scorer
from rnr_dist.stats import ClusterMean
from rnr_dist.tasks.toxicity import CHALLENGING, TaskData, toxicity_measures
from rnr_dist.types import Context, ModelRef, Split


@dataclass(frozen=True)
class Probe:
    """What every candidate is read on: the `search` split's contexts and windows, tokenised."""

    contexts: tuple[Context, ...]
    continuations: tuple[Request, ...]
    texts: Mapping[str, tuple[Request, ...]]
    task: str
    toxic_above: float


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
    path = reading_path(folder, model, draw)
    if path.exists():
        return read(path, Reading)
    texts = _read_texts(model, probe, pool, folder / f"{model.digest}-texts.json")
    reading = Reading(model.digest, texts)
    if not (step and rules and utility_shortfall(reading, step, rules) > 0):
        answers = pool.run(model, list(probe.continuations))
        prompts = [context.text for context in probe.contexts]
        samples = to_samples(probe.contexts, prompts, answers, scorer, probe.task)
        toxic = toxicity_measures(samples, probe.contexts, probe.toxic_above)
        forget = toxic[f"toxicity/{CHALLENGING}/fraction_gt_{probe.toxic_above:g}"]
        reading = Reading(model.digest, texts, forget, fluency_measures(samples, probe.contexts))
    write(path, reading)
    return reading


def reading_path(folder: Path, model: ModelRef, draw: int | Literal["whole"]) -> Path:
    return folder / f"{model.digest}-{draw}.json"


def _read_texts(
    model: ModelRef, probe: Probe, pool: PoolHandle, path: Path
) -> dict[str, ClusterMean]:
    """Perplexity by domain. Nothing in it is drawn, so one reading serves all draws."""
    if path.exists():
        return read(path, dict[str, ClusterMean])
    found = {role: perplexity(pool.run(model, list(asked))) for role, asked in probe.texts.items()}
    write(path, found)
    return found
