"""What a model knows of the forget sequences, and what it kept: read through the generator pool.

In: a model, the data. Out: a row a sequence, and measures by sequence. Invariant: sampled
extraction, NLL, perplexity and problems took no part in training, stopping or choosing; nor did
short prefixes, unless `stopping.extraction_over` is `all`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rnr_dist.config.icu import IcuConfig
from rnr_dist.generate.requests import Generate, ReadLikelihood
from rnr_dist.icu.data import IcuData
from rnr_dist.icu.forgotten import Counted
from rnr_dist.measures.continuations import settings_of
from rnr_dist.measures.fluency import distinct_and_total, token_entropy
from rnr_dist.measures.memorisation import Recall, auc, overlap, recall
from rnr_dist.measures.perplexity import perplexity, windows
from rnr_dist.measures.pool_reader import PoolReader
from rnr_dist.measures.problems import (
    choice_accuracy,
    choice_requests,
    reply_f1,
    reply_requests,
)
from rnr_dist.run.directory import read, write, write_rows
from rnr_dist.stats import BOOTSTRAP_DRAWS, ClusterMean
from rnr_dist.types import ModelRef, SamplingSettings, Split, TokenSequence


@dataclass(frozen=True)
class SequenceRow:
    """One forget sequence under one model."""

    model: str
    id: str
    corpus: str
    prefix: str
    truth: str
    continuation: str
    extraction: float
    extraction_t0: float
    extraction_short: float
    accuracy: float
    accuracy_t0: float
    bertscore: float
    bleu: float
    entropy: float
    distinct: float
    sampled: float
    nll: float


@dataclass(frozen=True)
class Judgement:
    """Measures by name; `auc` is (value, 95 % interval) of NLL against never-seen sequences.

    `model` is the digest of the model that was judged.
    """

    model: str
    measures: Mapping[str, ClusterMean]
    auc: tuple[float, float, float]


# Measure -> the row's figure that it is the mean of over sequences.
BY_SEQUENCE = {
    "extraction/el": "extraction",
    "extraction/el_t0": "extraction_t0",
    "extraction/el_short": "extraction_short",
    "extraction/ma": "accuracy",
    "extraction/ma_t0": "accuracy_t0",
    "extraction/bertscore": "bertscore",
    "extraction/bleu": "bleu",
    "extraction/sampled": "sampled",
    "output/entropy": "entropy",
    "output/distinct": "distinct",
}


def recalled(
    pool: Any,
    config: IcuConfig,
    model: ModelRef,
    sequences: Sequence[TokenSequence],
    eos: int | None,
    first: int = 1,
    describe: str = "",
) -> list[Recall]:
    """`recall` of sequences through the pool, prefixes from `first` tokens on."""
    task = config.task
    return recall(
        PoolReader(pool, model, describe),
        [sequence.token_ids for sequence in sequences],
        task.prefix_tokens,
        task.n,
        first,
        Counted.by(config).denominator,
        eos,
    )


def judge_model(
    config: IcuConfig,
    data: IcuData,
    pool: Any,
    similarity: Any,
    tokenizer: Any,
    model: ModelRef,
    folder: Path,
    name: str,
) -> Judgement:
    """Read a model whole; what stands in `folder` already is not read again.

    similarity: `(found, truth) -> (bertscore, bleu)`.
    """
    path = folder / f"{name}.json"
    if path.exists() and (judged := read(path, Judgement)).model == model.digest:
        return judged
    t0, sequences = config.task.prefix_tokens, data.forget
    found = recalled(pool, config, model, sequences, tokenizer.eos_token_id, describe=name)
    said = [tokenizer.decode(one.continuation, skip_special_tokens=True) for one in found]
    truth = [tokenizer.decode(sequence.token_ids[t0:]) for sequence in sequences]
    alike, bleu = similarity(said, truth)
    sampled = _sampled(config, pool, model, sequences)
    nll, unseen, kept = (
        sequence_nll(pool, model, part, t0) for part in (sequences, data.unseen, data.pool)
    )
    rows = [
        SequenceRow(
            model=name,
            id=sequence.id,
            corpus=sequence.corpus,
            prefix=tokenizer.decode(sequence.token_ids[:t0]),
            truth=truth[at],
            continuation=said[at],
            extraction=one.extraction,
            extraction_t0=one.extraction_within(t0, len(sequence.token_ids)),
            extraction_short=one.extraction_within(1, t0 - 1),
            accuracy=one.accuracy(),
            accuracy_t0=one.accuracy(t0),
            bertscore=float(alike[at]),
            bleu=float(bleu[at]),
            entropy=token_entropy([one.continuation]),
            distinct=_distinct(one.continuation),
            sampled=float(np.mean(sampled[at])),
            nll=float(nll.numerator[at] / nll.denominator[at]),
        )
        for at, (sequence, one) in enumerate(zip(sequences, found, strict=True))
    ]
    ones = np.ones(len(rows))
    measures = {
        measure: ClusterMean(np.array([getattr(row, key) for row in rows]), ones)
        for measure, key in BY_SEQUENCE.items()
    }
    measures["output/length"] = ClusterMean(
        np.array([float(len(one.continuation)) for one in found]), ones
    )
    measures["forget/nll"], measures["unseen/nll"], measures["pool/nll"] = nll, unseen, kept
    asked = list(windows(data.general[Split.FINAL], tokenizer, config.perplexity))
    measures["perplexity/general"] = perplexity(pool.run(model, asked, f"{name}: perplexity"))
    if data.questions:
        reads = choice_requests(data.questions, tokenizer)
        answers = pool.run(model, reads, f"{name}: choices")
        measures["problems/choices"] = choice_accuracy(data.questions, answers)
    if data.dialogues:
        replies = pool.run(model, reply_requests(data.dialogues, tokenizer), f"{name}: replies")
        measures["problems/dialogues"] = reply_f1(data.dialogues, replies)
    verdict = Judgement(model.digest, measures, auc_interval(nll, unseen))
    write_rows(folder / f"{name}.parquet", rows)
    write(path, verdict)
    return verdict


def auc_interval(
    forget: ClusterMean, unseen: ClusterMean, level: float = 0.95
) -> tuple[float, float, float]:
    """P(a forget sequence has a lower NLL a token than a never-seen one), and its interval.

    Bootstrap over the sequences of both sets.
    """
    known = forget.numerator / forget.denominator
    unknown = unseen.numerator / unseen.denominator
    draw = np.random.default_rng(0)
    drawn = [
        auc(draw.choice(known, len(known)), draw.choice(unknown, len(unknown)))
        for _ in range(BOOTSTRAP_DRAWS)
    ]
    tail = (1 - level) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return auc(known, unknown), float(low), float(high)


def _sampled(
    config: IcuConfig, pool: Any, model: ModelRef, sequences: Sequence[TokenSequence]
) -> list[list[float]]:
    """Of each sampled continuation the share of its n-grams that stand in the sequence's end."""
    settings, t0 = settings_of(config.evaluate.sampling), config.task.prefix_tokens
    asked = []
    for sequence in sequences:
        most = min(settings.max_tokens, len(sequence.token_ids) - t0)
        own = SamplingSettings(settings.n, most, settings.temperature, settings.top_p)
        asked.append(Generate(own, sequence.token_ids[:t0]))
    return [
        [
            overlap(choice.token_ids, sequence.token_ids[t0:], config.evaluate.sampled_n)
            for choice in answer.continuations
        ]
        for sequence, answer in zip(sequences, pool.run(model, asked), strict=True)
    ]


def sequence_nll(
    pool: Any, model: ModelRef, sequences: Sequence[TokenSequence], t0: int
) -> ClusterMean:
    """Nats a token of the ends after t0."""
    answers = pool.run(model, [ReadLikelihood(sequence.token_ids, t0) for sequence in sequences])
    return ClusterMean(
        np.array([-sum(answer.log_likelihoods) for answer in answers]),
        np.array([float(len(answer.log_likelihoods)) for answer in answers]),
    )


def _distinct(ids: tuple[int, ...]) -> float:
    """Distinct tokens over all tokens of a continuation."""
    few, all_of_them = distinct_and_total([ids], 1)
    return few / all_of_them if all_of_them else 0.0
