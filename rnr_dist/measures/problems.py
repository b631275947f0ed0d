"""What a model can still do: the right ending of a text, the next turn of a conversation.

In: problems and a model's answers to the requests made of them. Out: a measure, one cluster a
problem. Invariant: a choice is scored by the summed log-likelihood of its own tokens, a reply by
greedy tokens, as in the ICU paper's Table 1 (Cls Avg., Dia Avg.).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from rnr_dist.data.encoding import encoded, encoded_on
from rnr_dist.data.problems import Dialogue, Question
from rnr_dist.generate.requests import Generate, ReadLikelihood, Response
from rnr_dist.measures.measure import Measure
from rnr_dist.stats import ClusterMean
from rnr_dist.types import SamplingSettings

KEPT = "What was kept"
CHOICES = Measure(
    "problems/choices",
    "choices",
    "share",
    "higher",
    cluster="question",
    style=".0%",
    table=KEPT,
    compared=False,
)
REPLIES = Measure(
    "problems/dialogues",
    "dialogue F1",
    "score",
    "higher",
    cluster="dialogue",
    style=".1%",
    table=KEPT,
    compared=False,
)

REPLY = SamplingSettings(n=1, max_tokens=32, temperature=0.0, top_p=1.0)


def choice_requests(questions: Iterable[Question], tokenizer: Any) -> list[ReadLikelihood]:
    """One request a choice, question by question."""
    return [
        ReadLikelihood((*begun, *encoded_on(tokenizer, f" {choice}")), len(begun))
        for question in questions
        for begun in [encoded(tokenizer, question.question)]
        for choice in question.choices
    ]


def choice_accuracy(questions: Sequence[Question], answers: Iterable[Response]) -> ClusterMean:
    """Share of the questions whose right choice is the likeliest, in nats summed over its tokens.

    answers: to `choice_requests`.
    """
    scores = iter([sum(answer.log_likelihoods) for answer in answers])
    right = [
        float(np.argmax([next(scores) for _ in question.choices]) == question.answer)
        for question in questions
    ]
    return CHOICES.mean(right)


def reply_requests(dialogues: Iterable[Dialogue], tokenizer: Any) -> list[Generate]:
    """One request a dialogue: its turns by A and B in turn, then the name of who speaks next."""
    return [
        Generate(REPLY, encoded(tokenizer, "\n".join(turns(dialogue)))) for dialogue in dialogues
    ]


def turns(dialogue: Dialogue) -> Iterator[str]:
    """The lines that a model is asked to go on from: turns by A and B, then who speaks next."""
    for number, turn in enumerate(dialogue.context):
        yield f"{'AB'[number % 2]}: {turn}"
    yield f"{'AB'[len(dialogue.context) % 2]}:"


def reply_f1(dialogues: Sequence[Dialogue], answers: Iterable[Response]) -> ClusterMean:
    """Mean unigram F1 of the reply's first line and the true one; case, punctuation and articles
    aside, as is the custom."""
    from transformers.data.metrics.squad_metrics import compute_f1

    found = [
        float(compute_f1(dialogue.reply, answer.continuations[0].text.strip().partition("\n")[0]))
        for dialogue, answer in zip(dialogues, answers, strict=True)
    ]
    return REPLIES.mean(found)
