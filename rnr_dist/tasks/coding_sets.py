"""All that the coding task works on: problems in their forms, other contexts, text, questions.

In: the task's settings. Out: `CodingSets`. Invariant: a problem whose own solution does not pass
its tests is never judged without the config saying so; no text stands in two splits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rnr_dist.config.coding import ProblemSource
from rnr_dist.data.code_forms import context_of
from rnr_dist.data.examiner import Examiner
from rnr_dist.data.files import BUILTIN
from rnr_dist.data.problems import Question, load_problems
from rnr_dist.data.programs import Problem, load_programs, without_copies
from rnr_dist.data.sources import load_contexts, load_passages
from rnr_dist.data.splits import drop_cross_split_duplicates
from rnr_dist.data.sums import NumberQuestion, sums, word_problems
from rnr_dist.errors import InputError
from rnr_dist.run.progress import say
from rnr_dist.types import Context, Passage, Split, digest


@dataclass(frozen=True)
class Further:
    """A set of problems on which models are only judged."""

    examiner: Examiner
    contexts: tuple[Context, ...]


@dataclass(frozen=True)
class CodingSets:
    """problems: of all splits. contexts: these in every form, and others, not yet as they are
    asked. inside, outside: running text; what of numbers is trained on stands in the first.
    left_out: what `rnr check` says of problems whose own solution fails."""

    examiner: Examiner
    problems: tuple[Problem, ...]
    contexts: tuple[Context, ...]
    inside: tuple[Passage, ...]
    outside: tuple[Passage, ...]
    sums: tuple[NumberQuestion, ...]
    words: tuple[NumberQuestion, ...]
    questions: tuple[Question, ...]
    further: dict[str, Further]
    left_out: tuple[str, ...]

    def describe(self) -> list[str]:
        """Lines on what is counted nowhere else, and on the sandbox."""
        lines = []
        for what, found in (("sums", self.sums), ("word problems", self.words)):
            counts = Counter(one.split for one in found)
            lines += [f"data    {n:5d} {what} in {split}" for split, n in sorted(counts.items())]
        if self.questions:
            lines.append(f"data    {len(self.questions):5d} choices")
        for label, one in self.further.items():
            lines.append(f"data    {len(one.contexts):5d} problems of {label}")
        lines += [f"data    left out: {told}" for told in self.left_out]
        return lines + self.examiner.sandbox.layer.describe()


def load_sets(settings: Any, evaluated: Split, others: str) -> CodingSets:
    """settings: of the task. evaluated: the split of the table. others: the group of contexts that
    are no problems. Raises InputError."""
    loaded = [load_programs(source) for source in settings.problems]
    apart = {one.id for one in without_copies([one for part in loaded for one in part])}
    examiner = Examiner(settings.sandbox, [one for part in loaded for one in part])
    problems: list[Problem] = []
    left_out: list[str] = []
    for source, part in zip(settings.problems, loaded, strict=True):
        kept = [one for one in part if one.id in apart]
        passing, told = sound(examiner, source, kept)
        problems, left_out = [*problems, *passing], [*left_out, *told]
    forms = (*settings.forms, *settings.held_out)
    asked = [context_of(one, form, form) for one in problems for form in forms]
    [other] = drop_cross_split_duplicates(load_contexts(settings.others, others))
    inside = [load_passages(source) for source in settings.in_domain]
    outside = [load_passages(source) for source in settings.out_of_domain]
    texts = drop_cross_split_duplicates(*inside, *outside)
    words = [one for source in settings.gsm8k for one in word_problems(source)]
    reckoned = [
        one
        for split in dict.fromkeys((Split.SEARCH, evaluated))
        for one in sums(settings.sums, split, settings.sums.count)
    ]
    learnt = [
        *sums(settings.sums, Split.RETAIN, settings.sums.retain),
        *(one for one in words if one.split is Split.RETAIN),
    ]
    return CodingSets(
        examiner,
        tuple(problems),
        (*asked, *other),
        (*(one for part in texts[: len(inside)] for one in part), *map(_passage, learnt)),
        tuple(one for part in texts[len(inside) :] for one in part),
        tuple(reckoned),
        tuple(one for one in words if one.split is not Split.RETAIN),
        load_problems(settings.choices, Question) if settings.choices else (),
        {
            label: _further(settings, source, evaluated)
            for label, source in settings.further.items()
        },
        tuple(left_out),
    )


def sound(
    examiner: Examiner, source: ProblemSource, problems: Sequence[Problem]
) -> tuple[list[Problem], list[str]]:
    """(problems to work on, what to say of those left out). Raises InputError where the source says
    that a failing solution is refused. Those that ship are known to pass."""
    if source.failing == "keep" or source.source.startswith(BUILTIN):
        return list(problems), []
    say(f"{source.source}: {len(problems)} problems are checked by their own solutions")
    verdicts = examiner.solutions(problems)
    failing = {
        one.id: f"{source.source}, problem {one.label}: its own solution does not pass its tests "
        f"({verdict.outcome}: {verdict.detail})"
        for one in problems
        if (verdict := verdicts.get(one.id)) and not verdict.passed
    }
    if failing and source.failing == "refuse":
        raise InputError(
            f"{next(iter(failing.values()))}; expected one that does, or failing: leave_out"
        )
    if len(failing) == len(problems):
        raise InputError(f"{next(iter(failing.values()))}, nor does any other; expected some")
    return [one for one in problems if one.id not in failing], list(failing.values())


def _further(settings: Any, source: ProblemSource, evaluated: Split) -> Further:
    examiner = Examiner(settings.sandbox, load_programs(source))
    problems, _ = sound(examiner, source, examiner.problems)
    judged = [one for one in problems if one.split is evaluated]
    if not judged:
        raise InputError(
            f"{source.source}: holds no problem in the split {evaluated}; expected some"
        )
    form = settings.forms[0]
    return Further(examiner, tuple(context_of(one, form, form) for one in judged))


def _passage(question: NumberQuestion) -> Passage:
    text = f"{question.text}{question.solution}".rstrip()
    return Passage(digest(text), text, Split.RETAIN, "numbers")
