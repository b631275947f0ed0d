"""Answers that another program gave to a task's questions, scored as its own models are.

In: a task, a file of rows with `text`, `type` and `answer`. Out: its measures. Invariant: every
question has one answer and every answer is to a question of this set, so no score is of another.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rnr_dist.data.rows import file_rows, string_of, text_of
from rnr_dist.data.splits import normalised
from rnr_dist.errors import InputError, shown
from rnr_dist.measures.entities import Answer
from rnr_dist.stats import ClusterMean
from rnr_dist.tasks.ner import Ner
from rnr_dist.types import Split

Question = tuple[str, str]  # a text and a type, case and spacing aside


def scored_file(
    task: Ner, path: Path | str, split: Split | None = None
) -> Mapping[str, ClusterMean]:
    """The measures of the answers in a file, on a split of the task (left out: the evaluated one).

    Raises InputError for an answer to no question of it, a second one, and one that is missing.
    """
    wanted, file = split or task.config.evaluate.split, Path(path)
    asked = {
        (normalised(text), type_name.casefold()): (text_id, type_name, gold)
        for text_id, text, type_name, gold in task.asked(wanted)
    }
    given: dict[Question, str] = {}
    for row in file_rows(file):
        key = normalised(text_of(row)), text_of(row, "type").casefold()
        if key not in asked:
            raise InputError(
                f"{row.place}: found an answer for {shown(key[1])} on {shown(key[0])}, which is "
                f"none of the {len(asked)} questions in {wanted}; expected answers to this set"
            )
        if key in given:
            raise InputError(f"{row.place}: answers a question again, expected one answer to each")
        given[key] = string_of(row, "answer") or ""
    for key in asked:
        if key not in given:
            raise InputError(
                f"{file}: answers {len(given)} of {len(asked)} questions in {wanted}, none for "
                f"{shown(key[1])} on {shown(key[0])}; expected an answer to each"
            )
    parser = task.settings.asks.parser
    answers = [
        Answer.of(text_id, type_name, given[key], gold, parser)
        for key, (text_id, type_name, gold) in asked.items()
    ]
    order = list(dict.fromkeys(answer.text for answer in answers))
    return task.entities.read(answers, task.asking.types, order)
