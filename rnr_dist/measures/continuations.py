"""Continuations of contexts through the pool, scored by an oracle, as sample rows.

Invariant: token ids are kept as generated; a sample's text is only what was decoded from them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rnr_dist.config.schema import Sampling
from rnr_dist.generate.cluster_pool import PoolHandle
from rnr_dist.generate.requests import Generate, ReadLikelihood, Response
from rnr_dist.score.actors import Scorer
from rnr_dist.stats import ClusterMean
from rnr_dist.types import Context, ModelRef, Sample, SamplingSettings


def settings_of(sampling: Sampling) -> SamplingSettings:
    return SamplingSettings(**sampling.model_dump())


def continuation_requests(
    prompts: Sequence[str], tokenizer: Any, sampling: SamplingSettings
) -> list[Generate]:
    """One request a prompt, raw (no chat template)."""
    return [Generate(sampling, tuple(tokenizer.encode(prompt))) for prompt in prompts]


def to_samples(
    contexts: Sequence[Context],
    prompts: Sequence[str],
    responses: Sequence[Response],
    scorer: Scorer,
    task: str,
    instruction: str = "",
    pull_id: str = "",
) -> list[Sample]:
    """Scored rows of the responses, context by context."""
    answers = [
        (context.text, choice.text)
        for context, response in zip(contexts, responses, strict=True)
        for choice in response.continuations
    ]
    scores = scorer.score([text for text, _ in answers], [answer for _, answer in answers])
    return sample_rows(
        contexts, prompts, responses, scores, scorer.version, task, instruction, pull_id
    )


def sample_rows(
    contexts: Sequence[Context],
    prompts: Sequence[str],
    responses: Sequence[Response],
    scores: Sequence[float] | np.ndarray,
    oracle: str,
    task: str,
    instruction: str = "",
    pull_id: str = "",
) -> list[Sample]:
    """One row a continuation, context by context, with its score in the same order."""
    pairs = [
        (context, prompt, response.model, index, continuation)
        for context, prompt, response in zip(contexts, prompts, responses, strict=True)
        for index, continuation in enumerate(response.continuations)
    ]
    return [
        Sample(
            model=model,
            task=task,
            split=context.split,
            group=context.group,
            context_id=context.id,
            index=index,
            prompt=prompt,
            instruction=instruction,
            token_ids=choice.token_ids,
            text=choice.text,
            finish_reason=choice.finish_reason,
            score=float(score),
            oracle=oracle,
            pull_id=pull_id,
        )
        for (context, prompt, model, index, choice), score in zip(pairs, scores, strict=True)
    ]


def sample_model(
    pool: PoolHandle,
    scorer: Scorer,
    model: ModelRef,
    contexts: Sequence[Context],
    tokenizer: Any,
    sampling: SamplingSettings,
    task: str,
    describe: str = "",
) -> list[Sample]:
    """Continuations of the bare contexts by `model`."""
    prompts = [context.text for context in contexts]
    requests = continuation_requests(prompts, tokenizer, sampling)
    return to_samples(contexts, prompts, pool.run(model, requests, describe), scorer, task)


def base_likelihood(
    pool: PoolHandle,
    base: ModelRef,
    samples: Sequence[Sample],
    order: Sequence[Context],
    tokenizer: Any,
    per_context: int,
    describe: str = "",
) -> ClusterMean:
    """Mean NLL a token of the outputs under the base model (`output/base_nll`).

    Reads the first `per_context` non-empty continuations of each context.
    """
    chosen = [s for s in samples if s.index < per_context and s.token_ids]
    prompts = [tuple(tokenizer.encode(sample.prompt)) for sample in chosen]
    requests = [
        ReadLikelihood((*prompt, *sample.token_ids), start=len(prompt))
        for prompt, sample in zip(prompts, chosen, strict=True)
    ]
    position = {context.id: index for index, context in enumerate(order)}
    total, count = np.zeros(len(order)), np.zeros(len(order))
    for sample, response in zip(chosen, pool.run(base, requests, describe), strict=True):
        total[position[sample.context_id]] -= sum(response.log_likelihoods)
        count[position[sample.context_id]] += len(response.log_likelihoods)
    return ClusterMean(total, count)
