"""What methods train on to forget a type: what reveal found, and what the model says of the others.

In: the run's forget set, the model's own answers on retained types. Out: `Materials`. Invariant:
answers keep the token ids that were generated; what is drawn from the model is a file, so all
methods, and a resumed run, see the same.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Protocol

from rnr_dist.bench import Bench
from rnr_dist.data.encoding import encoded, encoded_on
from rnr_dist.data.splits import position
from rnr_dist.errors import InputError, shown
from rnr_dist.run.directory import RunDir, read_rows, write_rows
from rnr_dist.tasks.behaviour_materials import Behaved, forget_sequences, row_pairs
from rnr_dist.tasks.ner_answers import EMPTY, NAMED, EntityRow, Questions, answered
from rnr_dist.tasks.ner_lessons import room_for_empty
from rnr_dist.train.collate import Example
from rnr_dist.train.materials import Materials, Need
from rnr_dist.types import Split, TokenSequence, digest

GENERAL = "general"  # the domain of running text
NOTHING = "[]"


class Asking(Behaved, Protocol):
    """What is asked of the task: its contexts and texts, how it asks, how few answers are empty."""

    asking: Questions
    empty_share: float


def ner_materials(task: Asking, bench: Bench, run: RunDir, needs: frozenset[Need]) -> Materials:
    """What is needed; everything else stays empty. Raises InputError where reveal was not done."""
    forget = forget_sequences(task, bench, run)
    kept = retained(task, bench, run) if needs & {"retain", "pairs"} else []
    return Materials(
        forget=tuple(forget),
        retain=tuple(Example(one.token_ids, one.prefix_tokens) for one in kept),
        pairs=row_pairs(bench, run, forget, kept) if "pairs" in needs else {},
        alternatives=nothing_said(bench, forget) if "alternatives" in needs else {},
        others=tuple(kept),
        external=tuple(external(task, bench)) if "external" in needs else (),
        seed=bench.config.seed,
    )


def nothing_said(bench: Bench, forget: Sequence[TokenSequence]) -> dict[str, tuple[Example, ...]]:
    """To each question of the forget set the answer of one who knows nothing: the empty list."""
    answer = encoded_on(bench.tokenizer, NOTHING)
    return {
        one.id: (Example((*one.token_ids[: one.prefix_tokens], *answer), one.prefix_tokens),)
        for one in forget
    }


def external(task: Asking, bench: Bench) -> list[Example]:
    """The target's questions of `train` with the true answers, where there are any (Table 6)."""
    found = []
    for context in task.contexts(Split.TRAIN, "forget"):
        gold = context.reference or NOTHING
        if json.loads(gold):
            prompt = encoded(bench.tokenizer, context.text)
            found.append(Example((*prompt, *encoded_on(bench.tokenizer, gold)), len(prompt)))
    return found


def retained(task: Asking, bench: Bench, run: RunDir) -> list[TokenSequence]:
    """The model's own answers on the retained types, which learn their ends too, and passages."""
    path = run.stage("release") / "retain_answers.parquet"
    if not path.exists():
        write_rows(path, retain_answers(task, bench))
    kept = [
        _sequence(row, encoded(bench.tokenizer, row.prompt)) for row in read_rows(path, EntityRow)
    ]
    if bench.config.retain.passages:
        for passage in task.passages(Split.RETAIN)[GENERAL]:
            ids = encoded(bench.tokenizer, passage.text)
            kept.append(TokenSequence(passage.id, passage.domain, ids, passage.text))
    return kept


def retain_answers(task: Asking, bench: Bench) -> list[EntityRow]:
    """Answers to the `retain` questions that can be read, few of them empty, and by config those to
    the target's `train` questions that name nobody, so that the model also keeps to say so.

    Raises InputError where the model names nothing at all.
    """
    retain = bench.config.retain
    rows = []
    if retain.responses_per_context:
        sampling = retain.response.model_copy(update={"n": retain.responses_per_context})
        asked = task.contexts(Split.RETAIN, "retain")
        describe = "the model's answers on types that are retained"
        rows = answered(bench, bench.base, task.asking, asked, sampling, describe)
    named = [row for row in rows if row.state == NAMED]
    if rows and not named:
        raise InputError(
            f"task.retained: none of {len(rows)} answers names anything (the first is "
            f"{shown(rows[0].text)}); expected a model that can do the task: the recipe "
            "teach-reveal-release teaches it first"
        )
    empty = sorted(
        (row for row in rows if row.state == EMPTY), key=lambda r: position(r.context_id)
    )
    kept = [*named, *empty[: room_for_empty(len(named), task.empty_share, len(empty))]]
    if retain.mild_per_context:
        sampling = retain.response.model_copy(update={"n": retain.mild_per_context})
        asked = task.contexts(Split.TRAIN, "forget")
        describe = "the model's answers that name nothing of the target"
        rows = answered(bench, bench.base, task.asking, asked, sampling, describe)
        kept += [row for row in rows if row.state == EMPTY]
    return kept


def _sequence(row: EntityRow, prompt: Sequence[int]) -> TokenSequence:
    ids = (*prompt, *row.token_ids)
    return TokenSequence(digest(list(ids)), row.type, ids, row.text, len(prompt))
