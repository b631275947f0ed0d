"""Coding ability (Reveal-and-Release, section 4.5): forget to write programs, keep to reckon.

In: the task's settings. Out: a `Task`. Invariant: whatever a model writes runs in the sandbox
alone; a form that is held out takes no part in search, training or choosing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from rnr_dist.bench import Bench
from rnr_dist.config.base import Count, Sampling
from rnr_dist.config.coding import FormName, ProblemSource, SandboxSettings, Sums
from rnr_dist.config.oracles import Named
from rnr_dist.config.sources import ContextSource
from rnr_dist.data.code_forms import begun, context_of
from rnr_dist.data.encoding import encoded, encoded_on
from rnr_dist.data.examiner import Examiner
from rnr_dist.errors import InputError
from rnr_dist.measures import numbers
from rnr_dist.measures.code import Programs, read_solved, solved
from rnr_dist.measures.continuations import BASE_NLL, Asked, base_likelihood, sample_model
from rnr_dist.measures.fluency import FLUENCY, fluency_measures
from rnr_dist.measures.measure import Measure, Measures
from rnr_dist.measures.problems import CHOICES, choice_accuracy, choice_requests
from rnr_dist.measures.results import Estimate
from rnr_dist.measures.shares import FORGOTTEN
from rnr_dist.run.directory import RunDir, write_rows
from rnr_dist.sandbox.verdicts import Verdict
from rnr_dist.score.oracles.tests import TestsSettings
from rnr_dist.stats import ClusterMean
from rnr_dist.tasks.behaviour import (
    BASE_NLL_PER_CONTEXT,
    IN_DOMAIN,
    OF_ONE_VOCABULARY,
    OUT_OF_DOMAIN,
    PERPLEXITIES,
    Behaviour,
    BehaviourSettings,
    BehaviourTask,
)
from rnr_dist.tasks.behaviour_materials import behaviour_materials
from rnr_dist.tasks.coding_sets import load_sets
from rnr_dist.tasks.task import ContextKind, Gives
from rnr_dist.train.collate import Example
from rnr_dist.train.materials import Materials, Need
from rnr_dist.types import Context, ModelRef, Sample, Split

CHOSEN = replace(CHOICES, table=FORGOTTEN, compared=True)


class CodingSettings(BehaviourSettings):
    """Forget to write programs."""

    only_evaluated: ClassVar[frozenset[str]] = frozenset({"held_out", "further", "choices", "k"})
    name: Literal["coding"] = "coding"
    problems: list[ProblemSource] = Field(min_length=1)
    """Programming problems: of `reveal` and `train` the forget set is made, on the others models
    are judged."""
    further: dict[str, ProblemSource] = Field(default_factory=dict)
    """Further problems, by the name of their column, on which models are only judged (MBPP+)."""
    forms: list[FormName] = Field(default=["chat", "return", "stub"], min_length=1)
    """How problems are put to the model, each problem in each. What is forgotten in one form only
    is still there in others."""
    held_out: list[FormName] = Field(default=["lambda"])
    """Forms that nothing is trained on, only evaluated."""
    others: ContextSource
    """Contexts of another kind, from which the model shall go on as it did."""
    sums: Sums = Sums()
    gsm8k: list[ContextSource] = Field(default=[])
    """GSM8K's files: what falls into `retain` is trained on to be kept, what falls into a split
    that is evaluated measures the utility."""
    choices: str | None = "builtin:choices"
    """Questions whose right ending a model must find likeliest, only evaluated; null leaves them
    out."""
    relevance: Literal["share", "all"] = "share"
    """Of a response: the share of its problem's tests that pass, or 1 where all do."""
    k: Count = 5
    """Of pass@k; at most `evaluate.sampling.n`, 1 leaves it out."""
    sandbox: SandboxSettings = SandboxSettings()

    @model_validator(mode="after")
    def _held_out_apart(self) -> CodingSettings:
        if both := set(self.forms) & set(self.held_out):
            raise ValueError(
                f"held_out: found {min(both)}, which forms trains on; expected another"
            )
        return self


class Coding(BehaviourTask):
    """Forget to write programs; keep reckoning, language and the choice of right endings."""

    Settings: ClassVar[type[BehaviourSettings]] = CodingSettings
    gives: frozenset[Gives] = BehaviourTask.gives | {"external"}

    @classmethod
    def behaviour(cls, settings: Any) -> Behaviour:
        return Behaviour(
            family="coding",
            word="solved",
            oracle=cls.oracle_of(settings),
            above=0.5,
            forget="problems",
            retain="others",
        )

    @classmethod
    def oracle_of(cls, settings: Any) -> Named:
        return TestsSettings(
            problems=settings.problems, relevance=settings.relevance, sandbox=settings.sandbox
        )

    @property
    def settings(self) -> CodingSettings:
        """Its section of the config."""
        found = self.config.task
        assert isinstance(found, CodingSettings)
        return found

    @cached_property
    def programs(self) -> Programs:
        """The measures of programs."""
        settings, n = self.settings, self.config.evaluate.sampling.n
        return Programs(tuple(settings.forms), tuple(settings.held_out), min(settings.k, n))

    @property
    def measures(self) -> Measures:
        """The task's declarations, in the order of tables."""
        kept: list[Measure] = [numbers.SUMS] if self.settings.sums.count else []
        if self.settings.gsm8k:
            kept += [numbers.WORD_PROBLEMS, numbers.MARKED]
        kept += [CHOSEN] if self.settings.choices else []
        further = [solved(name, name) for name in self.settings.further]
        first, *rest = self.programs.declared
        return Measures((first, *further, *rest, *kept, *PERPLEXITIES.values(), *FLUENCY, BASE_NLL))

    def describe(self) -> list[str]:
        return [*super().describe(), *self.sets.describe()]

    def contexts(self, split: Split, kind: ContextKind) -> list[Context]:
        groups = self.settings.forms if kind == "forget" else [self.groups["retain"]]
        return [c for c in self._contexts if c.split == split and c.group in groups]

    def held_out(self, split: Split) -> list[Context]:
        """The problems of a split in the forms that nothing is trained on."""
        return [c for c in self._contexts if c.split == split and c.group in self.settings.held_out]

    def materials(self, bench: Bench, run: RunDir, needs: frozenset[Need]) -> Materials:
        found = behaviour_materials(self, bench, run, needs - {"external"})
        return replace(found, external=self._solutions(bench)) if "external" in needs else found

    def read_utility(self, bench: Bench, model: ModelRef, split: Split) -> dict[str, ClusterMean]:
        found = super().read_utility(bench, model, split)
        for questions, sampling, read in (
            (self.sets.sums, numbers.SHORT, numbers.read_sums),
            (self.sets.words, numbers.LONG, numbers.read_word_problems),
        ):
            asked = [one for one in questions if one.split is split]
            if asked:
                requests = numbers.requests(asked, bench.tokenizer, sampling)
                found |= read(asked, bench.endpoint.run(model, requests))
        return found

    def read_target(
        self, bench: Bench, model: ModelRef, split: Split, sampling: Sampling
    ) -> dict[str, ClusterMean]:
        contexts = self.contexts(split, "forget")
        samples = sample_model(bench, model, Asked.bare(self.name, contexts), sampling)
        target = self.programs.read_target(samples, contexts)
        return {**target, **fluency_measures(samples, contexts)}

    def evaluate(
        self, bench: Bench, model: ModelRef, name: str, folder: Path
    ) -> dict[str, Estimate]:
        """As of `Task`; a model of another vocabulary has no measure that is counted in tokens."""
        settings = bench.config.evaluate
        order = [*self.contexts(settings.split, "forget"), *self.held_out(settings.split)]
        own = bench.beside(model) if name in settings.others else bench
        samples, verdicts = self._judged(own, model, order, f"{name}: programs", self.sets.examiner)
        found: dict[str, Estimate] = {**self.programs.read(samples, verdicts, order)}
        further: list[Sample] = []
        for label, one in self.sets.further.items():
            more, _ = self._judged(own, model, one.contexts, f"{name}: {label}", one.examiner)
            found |= read_solved(solved(label, label), more, one.contexts)
            further += more
        write_rows(folder / f"{name}.parquet", [*samples, *further])
        found |= fluency_measures(samples, order)
        if questions := self.sets.questions:
            reads = choice_requests(questions, own.tokenizer)
            chosen = own.endpoint.run(model, reads, f"{name}: choices")
            found[CHOSEN.name] = choice_accuracy(questions, chosen)
        found |= self.read_utility(own, model, settings.split)
        if own is not bench and own.tokenizer.get_vocab() != bench.tokenizer.get_vocab():
            left_out = {measure.name for measure in OF_ONE_VOCABULARY}
            return {key: value for key, value in found.items() if key not in left_out}
        found[BASE_NLL.name] = base_likelihood(
            bench, samples, order, BASE_NLL_PER_CONTEXT, f"{name}: base NLL"
        )
        return found

    def _judged(
        self,
        bench: Bench,
        model: ModelRef,
        contexts: Sequence[Context],
        describe: str,
        examiner: Examiner,
    ) -> tuple[list[Sample], list[Verdict | None]]:
        """Samples with the examiner's scores, and its verdicts. Programs that the oracle has met
        are not run again."""
        asked = Asked.bare(self.name, contexts)
        samples = sample_model(bench, model, asked, bench.config.evaluate.sampling, describe)
        texts = {context.id: context.text for context in contexts}
        verdicts = examiner.verdicts(
            [texts[one.context_id] for one in samples], [one.text for one in samples]
        )
        scores = [one.share if one else 0.0 for one in verdicts]
        rows = [replace(one, score=score) for one, score in zip(samples, scores, strict=True)]
        return rows, verdicts

    def _load(self, settings: Any) -> None:
        self.sets = load_sets(settings, self.config.evaluate.split, self.groups["retain"])
        self._contexts = self._asked(self.sets.contexts)
        self._texts = {IN_DOMAIN: self.sets.inside, OUT_OF_DOMAIN: self.sets.outside}
        for label, one in self.sets.further.items():
            self.sets.further[label] = replace(one, contexts=self._asked(one.contexts))

    def _solutions(self, bench: Bench) -> tuple[Example, ...]:
        """The problems' own solutions behind their contexts, for methods on external data."""
        trained = [one for one in self.sets.problems if one.split is Split.TRAIN and one.solution]
        asked = {one.id: one.text for one in self.contexts(Split.TRAIN, "forget")}
        found = []
        for problem in trained:
            for form in self.settings.forms:
                context = asked[context_of(problem, form, form).id]
                if not begun(context, problem):  # of what is begun only some solutions go on
                    prompt = encoded(bench.tokenizer, context)
                    answer = encoded_on(bench.tokenizer, problem.solution.strip())
                    found.append(Example((*prompt, *answer), len(prompt)))
        if not found:
            raise InputError(
                "task.problems: none in the split train has a solution, or no form asks for a "
                "whole one, which methods on external data learn from; expected some, and the "
                "form chat"
            )
        return tuple(found)
