"""Continuations of contexts through the endpoint, scored by the task's oracle, as sample rows.

In: a bench, a model, what it is asked. Out: `Sample`s, context by context. Invariant: token ids are
kept as generated; a sample's text is only what was decoded from them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rnr_dist.bench import Bench
from rnr_dist.config.base import Sampling
from rnr_dist.data.encoding import encoded
from rnr_dist.generate.requests import Generate, ReadLikelihood, Response
from rnr_dist.measures.measure import Measure
from rnr_dist.stats import ClusterMean
from rnr_dist.types import Context, ModelRef, Sample, SamplingSettings

BASE_NLL = Measure(
    "output/base_nll",
    "base's NLL",
    "nats",
    "neither",
    table="The continuations themselves",
)


@dataclass(frozen=True)
class Asked:
    """What a model is asked: a prompt a context, for a task, perhaps under an instruction.

    pull_id: of the search's evaluation that the samples belong to.
    """

    task: str
    contexts: Sequence[Context]
    prompts: Sequence[str]
    instruction: str = ""
    pull_id: str = ""

    @classmethod
    def bare(cls, task: str, contexts: Sequence[Context]) -> Asked:
        """The contexts as they are."""
        return cls(task, contexts, [context.text for context in contexts])

    def requests(self, tokenizer: Any, sampling: SamplingSettings) -> list[Generate]:
        """One request a prompt, raw (no chat template)."""
        return [Generate(sampling, encoded(tokenizer, prompt)) for prompt in self.prompts]


def settings_of(sampling: Sampling) -> SamplingSettings:
    return SamplingSettings(**sampling.model_dump())


def sample_model(
    bench: Bench, model: ModelRef, asked: Asked, sampling: Sampling, describe: str = ""
) -> list[Sample]:
    """Scored continuations by `model`; `describe` names a progress bar."""
    requests = asked.requests(bench.tokenizer, settings_of(sampling))
    return to_samples(bench, asked, bench.endpoint.run(model, requests, describe))


def to_samples(bench: Bench, asked: Asked, responses: Sequence[Response]) -> list[Sample]:
    """Scored rows of the responses, context by context."""
    answers = answers_of(asked.contexts, responses)
    scores = bench.scorer.score([text for text, _ in answers], [answer for _, answer in answers])
    return sample_rows(asked, responses, scores, bench.scorer.version)


def answers_of(contexts: Sequence[Context], responses: Sequence[Response]) -> list[tuple[str, str]]:
    """(context, continuation) texts, continuation by continuation."""
    return [
        (context.text, choice.text)
        for context, response in zip(contexts, responses, strict=True)
        for choice in response.continuations
    ]


def sample_rows(
    asked: Asked,
    responses: Sequence[Response],
    scores: Sequence[float] | np.ndarray,
    oracle: str,
) -> list[Sample]:
    """One row a continuation, context by context, with its score in the same order."""
    pairs = [
        (context, prompt, response.model, index, continuation)
        for context, prompt, response in zip(asked.contexts, asked.prompts, responses, strict=True)
        for index, continuation in enumerate(response.continuations)
    ]
    return [
        Sample(
            model=model,
            task=asked.task,
            split=context.split,
            group=context.group,
            context_id=context.id,
            index=index,
            prompt=prompt,
            instruction=asked.instruction,
            token_ids=choice.token_ids,
            text=choice.text,
            finish_reason=choice.finish_reason,
            score=float(score),
            oracle=oracle,
            pull_id=asked.pull_id,
        )
        for (context, prompt, model, index, choice), score in zip(pairs, scores, strict=True)
    ]


def base_likelihood(
    bench: Bench,
    samples: Sequence[Sample],
    order: Sequence[Context],
    per_context: int,
    describe: str = "",
) -> ClusterMean:
    """Mean NLL a token of the outputs under the base model.

    Reads the first `per_context` non-empty continuations of each context.
    """
    chosen = [s for s in samples if s.index < per_context and s.token_ids]
    prompts = [encoded(bench.tokenizer, sample.prompt) for sample in chosen]
    requests = [
        ReadLikelihood((*prompt, *sample.token_ids), start=len(prompt))
        for prompt, sample in zip(prompts, chosen, strict=True)
    ]
    position = {context.id: index for index, context in enumerate(order)}
    total, count = np.zeros(len(order)), np.zeros(len(order))
    answers = bench.endpoint.run(bench.base, requests, describe)
    for sample, response in zip(chosen, answers, strict=True):
        total[position[sample.context_id]] -= sum(response.log_likelihoods)
        count[position[sample.context_id]] += len(response.log_likelihoods)
    return BASE_NLL.of(total, count)
