"""What a model knows of the forget sequences, and what it kept, read through the endpoint.

In: a model, a task's sets. Out: a row a sequence, and all measures. Invariant: short prefixes,
sampled extraction, the forget sequences' NLL and problems took no part in stopping or choosing, and
neither did this split's general text; a model of another vocabulary reads the same, encoded anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rnr_dist.config.base import Sampling
from rnr_dist.config.evaluation import Perplexity
from rnr_dist.data.encoding import encoded, encoded_on
from rnr_dist.data.problems import Dialogue, Question
from rnr_dist.generate.requests import Generate
from rnr_dist.measures.continuations import settings_of
from rnr_dist.measures.fluency import distinct_and_total, token_entropy
from rnr_dist.measures.memorisation import Counting, Recall, overlap, recall
from rnr_dist.measures.perplexity import perplexity, windows
from rnr_dist.measures.pool_reader import PoolReader
from rnr_dist.measures.problems import (
    CHOICES,
    REPLIES,
    choice_accuracy,
    choice_requests,
    reply_f1,
    reply_requests,
)
from rnr_dist.measures.results import Auc, Estimate
from rnr_dist.measures.sequence_rows import (
    AUC,
    FORGET_NLL,
    OF_ONE_VOCABULARY,
    PERPLEXITY,
    POOL_NLL,
    UNSEEN_NLL,
    SequenceRow,
    measures_of,
)
from rnr_dist.measures.similarity import Similar
from rnr_dist.stats import ClusterMean
from rnr_dist.types import ModelRef, Passage, TokenSequence


@dataclass(frozen=True)
class Sets:
    """What a model is read on, in one vocabulary."""

    forget: tuple[TokenSequence, ...]
    unseen: tuple[TokenSequence, ...]
    pool: tuple[TokenSequence, ...]
    general: tuple[Passage, ...]
    questions: tuple[Question, ...] = ()
    dialogues: tuple[Dialogue, ...] = ()


@dataclass(frozen=True)
class Manner:
    """How it is read. sampling, sampled_n: of sampled extraction. windows: of the general text."""

    counting: Counting
    sampling: Sampling
    sampled_n: int
    windows: Perplexity


@dataclass(frozen=True)
class AskedModel:
    """The model that is read, who answers for it, with which tokenizer, under which name.

    foreign: its vocabulary is another than that of the sets' ids.
    """

    pool: Any
    model: ModelRef
    tokenizer: Any
    name: str
    foreign: bool = False


def read_model(
    asked: AskedModel,
    sets: Sets,
    manner: Manner,
    similar: Similar,
) -> tuple[list[SequenceRow], dict[str, Estimate]]:
    """Rows of the forget sequences and all measures; those that compare models of one vocabulary
    only are left out of a foreign one's."""
    reader = PoolReader(asked.pool, asked.model, asked.name)
    found = recall(reader, sets.forget, manner.counting)
    said = [asked.tokenizer.decode(one.continuation, skip_special_tokens=True) for one in found]
    truth = [asked.tokenizer.decode(one.token_ids[one.prefix_tokens :]) for one in sets.forget]
    bertscore, bleu = similar(said, truth)
    sampled = _sampled(asked, sets.forget, manner)
    forget, unseen = reader.nll(sets.forget, FORGET_NLL), reader.nll(sets.unseen, UNSEEN_NLL)
    rows = [
        replace(
            recalled_row(asked, sequence, one),
            truth=truth[at],
            continuation=said[at],
            bertscore=float(bertscore[at]),
            bleu=float(bleu[at]),
            sampled=sampled[at],
            nll=each(forget)[at],
        )
        for at, (sequence, one) in enumerate(zip(sets.forget, found, strict=True))
    ]
    measures: dict[str, Estimate] = {
        **measures_of(rows),
        FORGET_NLL.name: forget,
        UNSEEN_NLL.name: unseen,
        AUC.name: Auc(each(forget), each(unseen)),
        **_problems(asked, sets),
    }
    if asked.foreign:
        left_out = {measure.name for measure in OF_ONE_VOCABULARY}
        return rows, {name: value for name, value in measures.items() if name not in left_out}
    measures[POOL_NLL.name] = reader.nll(sets.pool, POOL_NLL)
    measures[PERPLEXITY.name] = general_perplexity(asked, sets.general, manner.windows)
    return rows, measures


def each(nll: ClusterMean) -> tuple[float, ...]:
    """Nats a token of each sequence."""
    return tuple((nll.numerator / nll.denominator).tolist())


def general_perplexity(
    asked: AskedModel, passages: Sequence[Passage], settings: Perplexity
) -> ClusterMean:
    requests = windows(passages, asked.tokenizer, settings)
    return perplexity(asked.pool.run(asked.model, requests, f"{asked.name}: perplexity"))


def recalled_row(asked: AskedModel, sequence: TokenSequence, found: Recall) -> SequenceRow:
    """What recall alone tells; texts, similarities and likelihoods are filled in by others."""
    t0, unread = sequence.prefix_tokens, float("nan")
    few, total = distinct_and_total([found.continuation], 1)
    return SequenceRow(
        model=asked.name,
        id=sequence.id,
        corpus=sequence.corpus,
        prefix=asked.tokenizer.decode(sequence.token_ids[:t0]),
        truth="",
        continuation="",
        extraction=found.extraction,
        extraction_t0=found.extraction_within(t0, len(sequence.token_ids)),
        extraction_short=found.extraction_within(1, t0 - 1),
        accuracy=found.accuracy(),
        accuracy_t0=found.accuracy(t0),
        bertscore=unread,
        bleu=unread,
        entropy=token_entropy([found.continuation]),
        distinct=few / total if total else 0.0,
        length=float(len(found.continuation)),
        sampled=unread,
        nll=unread,
    )


def _sampled(asked: AskedModel, sequences: Sequence[TokenSequence], manner: Manner) -> list[float]:
    """Of the sampled continuations the mean share of n-grams that stand in the sequence's end."""
    settings = settings_of(manner.sampling)
    requests = []
    for one in sequences:
        most = min(settings.max_tokens, len(one.token_ids) - one.prefix_tokens)
        requests.append(
            Generate(replace(settings, max_tokens=most), one.token_ids[: one.prefix_tokens])
        )
    return [
        float(
            np.mean(
                [
                    overlap(choice.token_ids, one.token_ids[one.prefix_tokens :], manner.sampled_n)
                    for choice in answer.continuations
                ]
            )
        )
        for one, answer in zip(sequences, asked.pool.run(asked.model, requests), strict=True)
    ]


def _problems(asked: AskedModel, sets: Sets) -> dict[str, Estimate]:
    run, found = asked.pool.run, dict[str, Estimate]()
    if sets.questions:
        reads = choice_requests(sets.questions, asked.tokenizer)
        answers = run(asked.model, reads, f"{asked.name}: choices")
        found[CHOICES.name] = choice_accuracy(sets.questions, answers)
    if sets.dialogues:
        replies = reply_requests(sets.dialogues, asked.tokenizer)
        answers = run(asked.model, replies, f"{asked.name}: replies")
        found[REPLIES.name] = reply_f1(sets.dialogues, answers)
    return found


def translated(
    sequences: Sequence[TokenSequence], tokenizer: Any, other: Any
) -> tuple[TokenSequence, ...]:
    """The same texts in `other`'s tokens: the prefix and what follows it, each encoded anew."""
    found = []
    for one in sequences:
        before, after = (
            tokenizer.decode(part, skip_special_tokens=True)
            for part in (one.token_ids[: one.prefix_tokens], one.token_ids[one.prefix_tokens :])
        )
        prefix = encoded(other, before)
        ids = (*prefix, *encoded_on(other, after))
        found.append(replace(one, token_ids=ids, prefix_tokens=len(prefix)))
    return tuple(found)
