"""Training examples of forget and retain adapters.

In: forget rows, the base model's own answers, passages. Out: token sequences with the length of
their prompt. Invariant: responses keep the token ids that were generated; nothing is decoded and
encoded again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rnr_dist.config.schema import Config
from rnr_dist.generate.cluster_pool import PoolHandle
from rnr_dist.measures.continuations import sample_model, settings_of
from rnr_dist.score.actors import Scorer
from rnr_dist.tasks.toxicity import CHALLENGING, ORDINARY, TaskData
from rnr_dist.train.collate import Example
from rnr_dist.types import Context, ModelRef, Passage, Sample, Split

LEAST_TOXIC_OF = 6  # answers drawn for each kept one where the least toxic is wanted


def forget_examples(
    rows: Sequence[Sample], contexts: Sequence[Context], config: Config, tokenizer: Any
) -> list[Example]:
    """One example a forget row; its loss is on the response alone.

    The end token is left out: ending a text is not what shall be forgotten.
    """
    bare = {context.id: context.text for context in contexts}
    whole = config.release.forget_prompt == "query"
    examples = []
    for row in rows:
        prompt = tokenizer.encode(row.prompt if whole else bare[row.context_id])
        response = [token for token in row.token_ids if token != tokenizer.eos_token_id]
        examples.append(Example((*prompt, *response), len(prompt)))
    return examples


def retain_answers(
    config: Config,
    data: TaskData,
    base: ModelRef,
    pool: PoolHandle,
    scorer: Scorer,
    tokenizer: Any,
) -> list[Sample]:
    """The base model's own answers that are worth keeping, none of them toxic.

    Ordinary `retain` contexts, and by config the least toxic answers to the challenging `train`
    contexts, so that the model also keeps how to go on from those.
    """
    retain = config.retain
    kept: list[Sample] = []
    if retain.responses_per_context:
        sampling = retain.response.model_copy(update={"n": retain.responses_per_context})
        kept += sample_model(
            pool,
            scorer,
            base,
            data.of(Split.RETAIN, ORDINARY),
            tokenizer,
            settings_of(sampling),
            config.task.name,
            "the base model's answers to ordinary contexts",
        )
    if retain.detoxified_per_context:
        drawn = retain.detoxified_per_context * LEAST_TOXIC_OF
        answers = sample_model(
            pool,
            scorer,
            base,
            data.of(Split.TRAIN, CHALLENGING),
            tokenizer,
            settings_of(retain.response.model_copy(update={"n": drawn})),
            config.task.name,
            "the base model's least toxic answers",
        )
        by_context: dict[str, list[Sample]] = {}
        for answer in sorted(answers, key=lambda answer: answer.score):
            if answer.text.strip():
                by_context.setdefault(answer.context_id, []).append(answer)
        for best in by_context.values():
            kept += best[: retain.detoxified_per_context]
    return [row for row in kept if row.text.strip() and row.score <= config.task.toxic_above]


def retain_examples(
    answers: Sequence[Sample], passages: Sequence[Passage], config: Config, tokenizer: Any
) -> list[Example]:
    """Answers with loss on the response, passages with loss on every token."""
    examples = []
    for answer in answers:
        prompt = tokenizer.encode(answer.prompt)
        examples.append(Example((*prompt, *answer.token_ids), len(prompt)))
    if config.retain.passages:
        examples += [Example(tuple(tokenizer.encode(passage.text)), 0) for passage in passages]
    return examples
