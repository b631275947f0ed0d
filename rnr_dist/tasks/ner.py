"""Forget to find the entities of one type, and keep finding those of others (R&R, section 4.4).

In: marked texts. Out: a `Task`. Invariant: all questions on a text are in one split, a text that is
taught on stands in none, and every model is asked the same questions.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from rnr_dist.bench import Bench
from rnr_dist.config.base import Fraction, Sampling
from rnr_dist.config.entities import Demand, EntityOracle, SplitSource, Teach, TypeName
from rnr_dist.config.oracles import Named
from rnr_dist.config.schema import Config, TaskSettings
from rnr_dist.config.sources import TextSource
from rnr_dist.data.marked import Marked, load_marked
from rnr_dist.data.sources import load_passages
from rnr_dist.errors import InputError
from rnr_dist.measures import perplexity as running_text
from rnr_dist.measures.entities import FOUND, EntityMeasures
from rnr_dist.measures.measure import Measures
from rnr_dist.measures.results import Estimate
from rnr_dist.run.directory import RunDir, write_rows
from rnr_dist.stats import ClusterMean
from rnr_dist.tasks.ner_answers import EntityRow, Questions, answered, as_answers
from rnr_dist.tasks.ner_lessons import Lesson, Lessons
from rnr_dist.tasks.ner_materials import GENERAL, ner_materials
from rnr_dist.tasks.ner_texts import shared_out, without_copies
from rnr_dist.tasks.prompts import as_asked, instructed, tokenizer_of
from rnr_dist.tasks.task import ContextKind, Gives
from rnr_dist.train.collate import Example
from rnr_dist.train.materials import Materials, Need
from rnr_dist.types import Context, ModelRef, Passage, Split

TEACHING = "teach-reveal-release"
PERPLEXITY = running_text.declare(GENERAL, "perplexity", FOUND)


class NerSettings(TaskSettings):
    """Forget to find the entities of one type."""

    name: Literal["ner"] = "ner"
    texts: SplitSource = SplitSource()
    """Texts and the entities in them."""
    target: TypeName = "person"
    """The type that must be forgotten."""
    retained: list[TypeName] = Field(
        default=["organization", "location", "date", "product"], min_length=1
    )
    """The types that must stay."""
    asks: Demand = Demand()
    """How one asks, and how an answer is read."""
    empty_share: Fraction = 0.25
    """At most this share of what is taught and retained is an empty list: a model that has seen
    more of them answers nothing else."""
    teach: Teach | None = None
    """Taught before it forgets, by the recipe `teach-reveal-release`; left out: it can do the task
    already."""
    general: list[TextSource] = Field(default_factory=list)
    """Running text whose perplexity is a utility too; its `retain` split is trained on with
    `retain.passages`. Left out: none."""

    @model_validator(mode="after")
    def _types_differ(self) -> NerSettings:
        types = [name.casefold() for name in (self.target, *self.retained)]
        twice = next((name for name, count in Counter(types).items() if count > 1), None)
        if twice:
            raise ValueError(f"retained: found {twice} twice among target and retained types")
        return self


class Ner:
    """The task. A context is a question on a text for the entities of one type."""

    Settings: ClassVar[type[TaskSettings]] = NerSettings
    recipe: ClassVar[str] = "reveal-and-release"
    target_above = 0.5

    def __init__(self, config: Config):
        settings = config.task
        assert isinstance(settings, NerSettings)
        self.config, self.settings = config, settings
        self.name: str = settings.name
        self.empty_share: float = settings.empty_share
        self.oracle: Named = self.oracle_of(settings)
        types = (settings.target, *settings.retained)
        self.entities = EntityMeasures(settings.target, tuple(settings.retained))
        general = [PERPLEXITY] if settings.general else []
        self.measures = Measures((*self.entities.declared, *general))
        if settings.teach and config.recipe != TEACHING:
            raise InputError(
                f"task.teach: found a section beside the recipe {config.recipe}, which teaches "
                f"nothing; expected recipe: {TEACHING}, or no such section"
            )
        self._general = tuple(one for source in settings.general for one in load_passages(source))
        marked = load_marked(settings.texts, types, "task.texts")
        self._texts = shared_out(marked, settings.texts)
        self._lessons: list[Marked] = []
        if settings.teach:
            taught = load_marked(settings.teach.source, types, "task.teach.source")
            self._lessons = without_copies(taught, marked)
        tokenizer = None
        if settings.asks.chat:
            tokenizer = tokenizer_of(config.model, config.trust_remote_code)
            if not tokenizer.chat_template:
                raise InputError(
                    f"task.asks.chat: found true, but {config.model} has no chat template; "
                    "expected a model with one, or false"
                )
        self.asking = Questions(settings.asks, types, tokenizer)
        self._contexts = tuple(self.asking.contexts(self._texts))
        self._require_texts()

    @property
    def gives(self) -> frozenset[Gives]:
        found: set[Gives] = {"contexts", "forget", "retain", "pairs", "alternatives", "external"}
        return frozenset(found | ({"lessons"} if self.settings.teach else set()))

    @classmethod
    def oracle_of(cls, settings: Any) -> Named:
        """Relevance of an answer without anybody's entities; none of the data is needed."""
        return EntityOracle(wording=settings.asks.wording)

    def describe(self) -> list[str]:
        counts = Counter((one.split, one.group) for one in self._contexts)
        named = Counter(
            (one.split, one.group) for one in self._contexts if json.loads(one.reference or "[]")
        )
        lines = [
            f"data    {count:5d} questions for {group} in {split}, {named[split, group]} of them "
            "with entities"
            for (split, group), count in sorted(counts.items())
        ]
        for split, count in sorted(Counter(one.split for one in self._general).items()):
            lines.append(f"data    {count:5d} passages of general text in {split}")
        if self.settings.teach:
            rows = self._lesson_rows(True)
            empty = sum(not gold for _, gold in rows)
            lines.append(
                f"data    {len(rows):5d} lessons of {len(self._lessons)} texts, {empty} of them "
                "an empty list"
            )
        return lines

    def contexts(self, split: Split, kind: ContextKind) -> list[Context]:
        forget = kind == "forget"
        target = self.settings.target
        return [
            one for one in self._contexts if one.split == split and (one.group == target) is forget
        ]

    def asked(self, split: Split) -> Iterator[tuple[str, str, str, tuple[str, ...]]]:
        """(id of the text, the text, a type, its true entities) of each question of a split."""
        for one in self._texts:
            for name, gold in one.marked.entities.items():
                if one.split is split:
                    yield one.id, one.marked.text, name, gold

    def passages(self, split: Split) -> dict[str, list[Passage]]:
        """General text of a split."""
        return {GENERAL: [one for one in self._general if one.split is split]}

    def prompt(self, context: Context, instruction: str, style: str, tokenizer: Any) -> str:
        return instructed(context, instruction, style, tokenizer)

    @property
    def teach(self) -> Teach | None:
        return self.settings.teach

    def lessons(self, tokenizer: Any, with_target: bool) -> list[Example]:
        """As `tasks.teaching.TaughtTask`: questions with their true answers, the end included."""
        rows = self._lesson_rows(with_target)
        return [self.asking.example(tokenizer, *row) for row in rows]

    def lesson_count(self, with_target: bool) -> int:
        return len(self._lesson_rows(with_target))

    def _lesson_rows(self, with_target: bool) -> list[Lesson]:
        if self.settings.teach is None:
            return []
        lessons = Lessons(self.asking, self._lessons, self.empty_share)
        left_out = () if with_target else (self.settings.target,)
        return lessons.rows(self.settings.teach.most, left_out)

    def materials(self, bench: Bench, run: RunDir, needs: frozenset[Need]) -> Materials:
        return ner_materials(self, bench, run, needs)

    def read_utility(self, bench: Bench, model: ModelRef, split: Split) -> dict[str, ClusterMean]:
        """F1 of the retained types by greedy answers, and their guards."""
        asked = self.contexts(split, "retain")
        rows = answered(bench, model, self.asking, asked, self.asking.greedy)
        found = self._read(rows, self.settings.retained)
        return found | self._read_general(bench, model, split)

    def read_target(
        self, bench: Bench, model: ModelRef, split: Split, sampling: Sampling
    ) -> dict[str, ClusterMean]:
        asked = self.contexts(split, "forget")
        rows = answered(bench, model, self.asking, asked, sampling)
        return self._read(rows, [self.settings.target])

    def evaluate(
        self, bench: Bench, model: ModelRef, name: str, folder: Path
    ) -> dict[str, Estimate]:
        """As of `Task`; `folder`/`name`.parquet has a row an answer, with the true entities."""
        settings = bench.config.evaluate
        split = settings.split
        own = bench.beside(model) if name in settings.others else bench
        asked = [*self.contexts(split, "forget"), *self.contexts(split, "retain")]
        if own is not bench and self.settings.asks.chat:
            asked = [as_asked(one, own.tokenizer, f"evaluate.others.{name}") for one in asked]
        describe = f"{name}: answers to {len(asked)} questions"
        rows = answered(own, model, self.asking, asked, settings.sampling, describe)
        write_rows(folder / f"{name}.parquet", rows)
        found: dict[str, Estimate] = dict(self._read(rows, self.asking.types))
        if own is bench or own.tokenizer.get_vocab() == bench.tokenizer.get_vocab():
            found |= self._read_general(own, model, split)
        return found

    def _read_general(self, bench: Bench, model: ModelRef, split: Split) -> dict[str, ClusterMean]:
        passages = self.passages(split)[GENERAL]
        if not passages:
            return {}
        asked = running_text.windows(passages, bench.tokenizer, bench.config.perplexity)
        return {PERPLEXITY.name: running_text.perplexity(bench.endpoint.run(model, list(asked)))}

    def _read(self, rows: Sequence[EntityRow], types: Sequence[str]) -> dict[str, ClusterMean]:
        order = list(dict.fromkeys(row.text_id for row in rows))
        return self.entities.read(as_answers(rows, self.settings.asks.parser), types, order)

    def _require_texts(self) -> None:
        """Raises InputError where a split that some stage reads asks nothing, or where no answer
        of a type could be right."""
        evaluated = self.config.evaluate.split
        read: dict[ContextKind, tuple[Split, ...]] = {
            "forget": (Split.REVEAL, Split.TRAIN, Split.SEARCH, evaluated),
            "retain": (Split.RETAIN, Split.SEARCH, evaluated),
        }
        for kind, splits in read.items():
            wanted = [self.settings.target] if kind == "forget" else self.settings.retained
            for split in splits:
                named = {
                    one.group
                    for one in self.contexts(split, kind)
                    if json.loads(one.reference or "[]")
                }
                for name in wanted:
                    if name not in named:
                        raise InputError(
                            f"task.texts: found no entity of type {name!r} in split {split}, "
                            "expected at least one; give it a greater share in task.texts.splits"
                        )
        for split in (Split.SEARCH, evaluated):
            if self._general and not self.passages(split)[GENERAL]:
                raise InputError(f"task.general: holds no text in the split {split}; expected some")
