"""Answers that are one number: sums and word problems, by greedy answers.

In: questions, a model's answers. Out: measures, one cluster a question. Invariant: an answer
without a number is wrong, never left out; nothing is drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from rnr_dist.data.encoding import encoded
from rnr_dist.data.sums import NumberQuestion, last_number, marked_number, number_in
from rnr_dist.generate.requests import Generate, Response
from rnr_dist.measures.measure import Measure, Role
from rnr_dist.measures.shares import FORGOTTEN
from rnr_dist.stats import ClusterMean
from rnr_dist.types import SamplingSettings


def _accuracy(name: str, title: str, role: Role = Role.UTILITY, table: str = FORGOTTEN) -> Measure:
    return Measure(
        f"numbers/{name}",
        title,
        "share",
        "higher",
        role,
        adds="share",
        cluster="question",
        style=".1%",
        table=table,
    )


SUMS = _accuracy("sums", "sums")
WORD_PROBLEMS = _accuracy("gsm8k", "GSM8K")
# Who learnt the data set's form ends with `#### n`; both are told, the last number decides.
MARKED = _accuracy("gsm8k_marked", "GSM8K by ####", Role.INFORMATION, "")

SHORT = SamplingSettings(n=1, max_tokens=6, temperature=0.0, top_p=1.0, stop=("\n",))
LONG = SamplingSettings(n=1, max_tokens=256, temperature=0.0, top_p=1.0, stop=("\nQuestion:",))


def requests(
    questions: Iterable[NumberQuestion], tokenizer: Any, sampling: SamplingSettings
) -> list[Generate]:
    """One greedy answer a question."""
    return [Generate(sampling, encoded(tokenizer, one.text)) for one in questions]


def right(
    measure: Measure,
    read: Callable[[str], float | None],
    questions: Sequence[NumberQuestion],
    answers: Iterable[Response],
) -> ClusterMean:
    """Share of the questions whose answer, as `read`, is right."""
    said = (read(answer.continuations[0].text) for answer in answers)
    return measure.mean(
        float(found is not None and abs(found - one.answer) < 1e-6)
        for one, found in zip(questions, said, strict=True)
    )


def read_sums(
    questions: Sequence[NumberQuestion], answers: Sequence[Response]
) -> dict[str, ClusterMean]:
    """Accuracy of sums, by the first number of each answer."""
    return {SUMS.name: right(SUMS, number_in, questions, answers)}


def read_word_problems(
    questions: Sequence[NumberQuestion], answers: Sequence[Response]
) -> dict[str, ClusterMean]:
    """Accuracy of word problems, by the last number and by the mark."""
    return {
        WORD_PROBLEMS.name: right(WORD_PROBLEMS, last_number, questions, answers),
        MARKED.name: right(MARKED, marked_number, questions, answers),
    }
