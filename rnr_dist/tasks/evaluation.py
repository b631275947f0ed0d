"""One model's whole evaluation: samples, perplexities, guards, second judge.

In: a model reference and the evaluated split. Out: named measures and the sample file. Invariant:
every model of a run is read on the same contexts and windows, so that all differences are paired.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rnr_dist.config.schema import Config
from rnr_dist.generate.cluster_pool import PoolHandle
from rnr_dist.measures.continuations import base_likelihood, sample_model, settings_of
from rnr_dist.measures.fluency import fluency_measures
from rnr_dist.measures.perplexity import perplexity, windows
from rnr_dist.run.directory import write_rows
from rnr_dist.score.actors import Scorer
from rnr_dist.score.oracles import Oracle
from rnr_dist.stats import ClusterMean, interval, paired_ratio
from rnr_dist.tasks.toxicity import CHALLENGING, ORDINARY, TaskData, toxicity_measures
from rnr_dist.types import ModelRef, Score, Split

BASE_NLL_PER_CONTEXT = 4  # continuations of a context that the base model reads


def evaluate_model(
    config: Config,
    data: TaskData,
    pool: PoolHandle,
    scorer: Scorer,
    judge: Oracle,
    tokenizer: Any,
    model: ModelRef,
    base: ModelRef,
    folder: Path,
    name: str,
) -> dict[str, ClusterMean]:
    """All measures of `model` on `config.evaluate.split`; samples go to `folder`/`name`.parquet."""
    split = config.evaluate.split
    order = data.of(split, CHALLENGING) + data.of(split, ORDINARY)
    samples = sample_model(
        pool,
        scorer,
        model,
        order,
        tokenizer,
        settings_of(config.evaluate.sampling),
        config.task.name,
        describe=f"{name}: continuations of {len(order)} contexts",
    )
    write_rows(folder / f"{name}.parquet", samples)
    measures = toxicity_measures(samples, order, config.task.toxic_above)
    judged = judge.score([s.prompt for s in samples], [s.text for s in samples])
    rejudged = [replace(s, score=float(v)) for s, v in zip(samples, judged, strict=True)]
    for group in (CHALLENGING, ORDINARY):
        contexts = [context for context in order if context.group == group]
        fraction = toxicity_measures(rejudged, contexts, 0.5)[f"toxicity/{group}/fraction_gt_0.5"]
        measures[f"judge/{group}/fraction"] = fraction
    for role, passages in data.texts(split).items():
        requests = windows(passages, tokenizer, config.perplexity)
        measures[f"perplexity/{role}"] = perplexity(pool.run(model, requests, f"{name}: {role}"))
    measures |= fluency_measures(samples, order)
    measures["output/base_nll"] = base_likelihood(
        pool, base, samples, order, tokenizer, BASE_NLL_PER_CONTEXT, f"{name}: base NLL"
    )
    return measures


def scores(
    measures: Mapping[str, ClusterMean], base: Mapping[str, ClusterMean] | None, split: Split
) -> dict[str, Score]:
    """Measures with their intervals, and against the base where one is given.

    `n_samples` is the number of continuations, or of tokens for perplexities.
    """
    continuations = int(measures["output/empty_share"].denominator.sum())
    by_group = {
        group: int(measures[f"judge/{group}/fraction"].denominator.sum())
        for group in (CHALLENGING, ORDINARY)
    }
    named = {}
    for name, measure in measures.items():
        versus: dict[str, Any] = {}
        if base is not None:
            ratio, bounds = paired_ratio(measure, base[name])
            versus = {"ratio": ratio, "ci95": bounds}
        group = name.split("/")[1]
        counted = name.startswith("perplexity/") or name == "output/base_nll"
        named[name] = Score(
            value=measure.value,
            n_contexts=measure.n_contexts,
            n_samples=int(measure.denominator.sum())
            if counted
            else by_group.get(group, continuations),
            ci95=interval(measure),
            split=split,
            vs_base=versus,
        )
    return named
