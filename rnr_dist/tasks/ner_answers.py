"""Questions for entities as contexts, what a model answers to them, and rows that keep both.

In: marked texts, a model. Out: contexts, `EntityRow`s. Invariant: a context's reference is the true
list, a row holds what was said word for word, and whoever reads a row again comes to the same
figures.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rnr_dist.bench import Bench
from rnr_dist.config.base import Sampling
from rnr_dist.config.entities import Demand
from rnr_dist.data.encoding import encoded, encoded_on
from rnr_dist.data.entity_answers import Parser, parsed
from rnr_dist.data.entity_questions import plain, turns
from rnr_dist.data.splits import normalised
from rnr_dist.measures.continuations import Asked, settings_of
from rnr_dist.measures.entities import Answer
from rnr_dist.tasks.ner_texts import Placed
from rnr_dist.tasks.prompts import as_asked
from rnr_dist.train.collate import Example
from rnr_dist.types import Context, ModelRef, Split, digest

UNREAD, EMPTY, NAMED = "unread", "empty", "named"


@dataclass(frozen=True)
class EntityRow:
    """One answer, for whoever audits it. state: `unread`, `empty` or `named`.

    text_id: of the text that was asked about. gold, said: lists, as JSON holds them; said is "" of
    what cannot be read.
    """

    model: str
    split: Split
    type: str
    context_id: str
    text_id: str
    index: int
    prompt: str
    text: str
    token_ids: tuple[int, ...]
    gold: str
    said: str
    state: str
    score: float


@dataclass(frozen=True)
class Questions:
    """How texts become contexts. tokenizer: whose chat template asks; None: plain text."""

    asks: Demand
    types: tuple[str, ...]
    tokenizer: Any

    @property
    def greedy(self) -> Sampling:
        return Sampling(n=1, max_tokens=self.asks.tokens, temperature=0.0, top_p=1.0)

    def contexts(self, texts: Sequence[Placed]) -> Iterator[Context]:
        """A context for each type that a text was asked for, text by text."""
        for one in texts:
            for name in self.types:
                if name in one.marked.entities:
                    yield self.context(one, name)

    def context(self, placed: Placed, type_name: str) -> Context:
        """One question. Raises InputError where the template does not take its turns."""
        text, wording = placed.marked.text, self.asks.wording
        gold = placed.marked.entities[type_name]
        bare = Context(
            f"{placed.id}-{digest(normalised(type_name))[:8]}",
            plain(wording, text, type_name),
            placed.split,
            type_name,
            listed(gold),
        )
        if self.tokenizer is None:
            return bare
        spoken = replace(bare, messages=turns(wording, text, type_name))
        return as_asked(spoken, self.tokenizer, f"task.texts, {placed.marked.place}")

    def example(self, tokenizer: Any, context: Context, gold: Sequence[str]) -> Example:
        """A question with its answer, to be learnt up to and with its end."""
        prompt = encoded(tokenizer, context.text)
        answer = encoded_on(tokenizer, listed(gold))
        return Example((*prompt, *answer, tokenizer.eos_token_id), len(prompt))


def listed(names: Sequence[str]) -> str:
    """The answer that names these."""
    return json.dumps(list(names), ensure_ascii=False)


def answered(
    bench: Bench,
    model: ModelRef,
    questions: Questions,
    contexts: Sequence[Context],
    sampling: Sampling,
    describe: str = "",
) -> list[EntityRow]:
    """What a model answers, question by question."""
    requests = Asked.bare("", contexts).requests(bench.tokenizer, settings_of(sampling))
    responses = bench.endpoint.run(model, requests, describe)
    rows = []
    for context, response in zip(contexts, responses, strict=True):
        for index, choice in enumerate(response.continuations):
            said = parsed(choice.text, questions.asks.parser)
            gold = context.reference or "[]"
            answer = Answer.of(
                context.id, context.group, choice.text, json.loads(gold), questions.asks.parser
            )
            rows.append(
                EntityRow(
                    response.model,
                    context.split,
                    context.group,
                    context.id,
                    context.id.partition("-")[0],
                    index,
                    context.text,
                    choice.text,
                    choice.token_ids,
                    gold,
                    "" if said is None else listed(said),
                    UNREAD if said is None else NAMED if said else EMPTY,
                    2 * answer.right / answer.either if answer.either else 1.0,
                )
            )
    return rows


def as_answers(rows: Sequence[EntityRow], parser: Parser) -> list[Answer]:
    """The rows as measures read them."""
    return [
        Answer.of(row.text_id, row.type, row.text, json.loads(row.gold), parser) for row in rows
    ]
