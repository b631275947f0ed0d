"""Generated sums, and GSM8K's word problems: questions whose answer is one number.

In: settings, or rows. Out: `NumberQuestion`s. Pure but for reading. Invariant: a split's sums
follow from its name alone, and no sum stands in two splits.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from rnr_dist.config.coding import Sums
from rnr_dist.config.sources import ContextSource
from rnr_dist.data.files import files_of
from rnr_dist.data.rows import file_rows, text_of
from rnr_dist.data.splits import split_of
from rnr_dist.errors import InputError
from rnr_dist.types import Split

NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
FINAL = re.compile(r"####\s*(-?\$?[\d,]*\.?\d+)")


@dataclass(frozen=True)
class NumberQuestion:
    """A text that ends where the answer begins. solution: a whole right answer, to be learnt."""

    text: str
    answer: float
    split: Split
    solution: str = ""


def number_in(text: str) -> float | None:
    """The first number of a text."""
    found = NUMBER.search(text)
    return float(found[0].replace(",", "")) if found else None


def last_number(text: str) -> float | None:
    """The last number of a text: what an answer in prose ends with."""
    found = NUMBER.findall(text)
    return float(found[-1].replace(",", "")) if found else None


def marked_number(text: str) -> float | None:
    """The number behind GSM8K's `####`; None without one."""
    found = FINAL.search(text)
    return float(found[1].replace(",", "").replace("$", "")) if found else None


def sums(settings: Sums, split: Split, count: int) -> list[NumberQuestion]:
    """So many different sums of a split, each behind some solved ones. Raises InputError."""
    pairs = [(a, b) for a in range(settings.largest) for b in range(settings.second)]
    # One order of all pairs, and by it one of all (pair, examples): splits never share a pair's
    # wording, since each has its own remainder.
    splits = list(Split)
    draw = random.Random(f"sums {split}")
    found: list[NumberQuestion] = []
    seen: set[str] = set()
    for _ in range(50 * count):
        if len(found) == count:
            return found
        a, b = draw.choice(pairs)
        shots = [draw.choice(pairs) for _ in range(settings.examples)]
        if sum(map(sum, [*shots, (a, b)])) % len(splits) != splits.index(split):
            continue
        text = "".join(f"{c} + {d} = {c + d}\n" for c, d in shots) + f"{a} + {b} ="
        if text not in seen:
            seen.add(text)
            found.append(NumberQuestion(text, a + b, split, f" {a + b}\n"))
    if len(found) == count:
        return found
    raise InputError(
        f"task.sums: found {len(found)} different sums for {split}, expected {count}; give "
        "task.sums larger summands or more examples"
    )


def word_problems(source: ContextSource) -> list[NumberQuestion]:
    """GSM8K's rows, `question` and `answer` that ends in `#### n`, each in its split."""
    found = []
    for file in files_of(source.source):
        for row in file_rows(file):
            question, solution = text_of(row, "question").strip(), text_of(row, "answer").strip()
            answer = marked_number(solution)
            if answer is None:
                raise InputError(f"{row.place}: `answer` has no `#### n`, expected one at its end")
            split = split_of(question, source.splits)
            found.append(
                NumberQuestion(f"Question: {question}\nAnswer:", answer, split, f" {solution}\n")
            )
    if not found:
        raise InputError(f"{source.source}: holds no rows; expected some")
    for split, most in source.limit.items():
        own = [one for one in found if one.split is split][most:]
        found = [one for one in found if one not in own]
    return found
