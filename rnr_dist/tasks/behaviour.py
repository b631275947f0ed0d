"""A behaviour: whatever an oracle can see in continuations of contexts. Most tasks extend this.

In: two sources of contexts, running text, an oracle. Out: a whole `Task`. Invariant: no text stands
in two splits, whatever sources it came from; every model is read on the same contexts and windows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from rnr_dist.bench import Bench
from rnr_dist.config.base import Sampling
from rnr_dist.config.oracles import Named
from rnr_dist.config.schema import Config, TaskSettings
from rnr_dist.config.sources import ContextSource, TextSource
from rnr_dist.data.sources import load_contexts, load_passages
from rnr_dist.data.splits import drop_cross_split_duplicates
from rnr_dist.errors import InputError
from rnr_dist.measures import perplexity as running_text
from rnr_dist.measures.continuations import BASE_NLL, Asked, base_likelihood, sample_model
from rnr_dist.measures.fluency import ENTROPY, FLUENCY, LENGTH, fluency_measures
from rnr_dist.measures.measure import Measure, Measures
from rnr_dist.measures.results import Estimate
from rnr_dist.measures.shares import FORGOTTEN, Shares
from rnr_dist.run.directory import RunDir, write_rows
from rnr_dist.score.oracles import check_oracle, make_oracle
from rnr_dist.stats import ClusterMean
from rnr_dist.tasks.behaviour_materials import behaviour_materials
from rnr_dist.tasks.prompts import as_asked, instructed, tokenizer_of
from rnr_dist.tasks.task import ContextKind, Gives
from rnr_dist.train.materials import Materials, Need
from rnr_dist.types import Context, ModelRef, Passage, Split

BASE_NLL_PER_CONTEXT = 4  # continuations of a context that the base model reads
IN_DOMAIN, OUT_OF_DOMAIN = "in_domain", "out_of_domain"
PERPLEXITIES = {
    IN_DOMAIN: running_text.declare(IN_DOMAIN, "perplexity in domain", FORGOTTEN),
    OUT_OF_DOMAIN: running_text.declare(OUT_OF_DOMAIN, "perplexity out of domain", FORGOTTEN),
}
# Counted in tokens: they compare models of one vocabulary only.
OF_ONE_VOCABULARY = (*PERPLEXITIES.values(), ENTROPY, LENGTH, BASE_NLL)


class BehaviourSettings(TaskSettings):
    """What the settings of a behaviour share."""

    in_domain: list[TextSource] = Field(min_length=1)
    """Running text of the retain domain: its `retain` split trains, the others measure; sources
    may share out the splits."""
    out_of_domain: list[TextSource] = Field(min_length=1)
    """Running text of other domains, never trained on; each split of another domain if possible."""


class OwnSettings(BehaviourSettings):
    """Settings of a behaviour of your own: the two sources of contexts by plain names."""

    forget: ContextSource
    """Contexts in which the behaviour shows."""
    retain: ContextSource
    """Others, in which the model shall stay as it is."""


@dataclass(frozen=True)
class Behaviour:
    """What tells one behaviour from another.

    family: what stands before a group in a measure's name. word: what a continuation is called that
    shows it (`toxic`). forget, retain: the config keys of the two sources, which also name the
    groups of contexts. oracle: of relevance, by name or as a section of its settings; judge: a
    second one, "" for none. above: the oracle score from which a continuation shows it.
    """

    family: str
    word: str
    oracle: Named
    judge: Named = ""
    above: float = 0.5
    forget: str = "forget"
    retain: str = "retain"


class BehaviourTask:
    """A `Task` of one behaviour; a subclass says which by `behaviour`."""

    Settings: ClassVar[type[BehaviourSettings]] = OwnSettings
    recipe: ClassVar[str] = "reveal-and-release"
    gives: frozenset[Gives] = frozenset(
        {"contexts", "forget", "retain", "pairs", "alternatives", "contrasts"}
    )

    def __init__(self, config: Config):
        self.config, settings = config, config.task
        self.told = self.behaviour(settings)
        self.name, self.oracle = settings.name, self.told.oracle
        self.target_above = self.told.above
        if self.told.judge:
            check_oracle(self.told.judge)
        self.groups: dict[ContextKind, str] = {
            "forget": self.told.forget,
            "retain": self.told.retain,
        }
        self.shares = {
            group: Shares(
                self.told.family,
                group,
                self.told.word,
                self.told.above,
                target=kind == "forget",
                judged=kind == "forget",
            )
            for kind, group in self.groups.items()
        }
        self._load(settings)
        self._require_texts()

    @classmethod
    def behaviour(cls, settings: Any) -> Behaviour:
        """The behaviour that these settings describe."""
        raise InputError(f"task {settings.name}: says no behaviour; expected a method `behaviour`")

    @classmethod
    def oracle_of(cls, settings: Any) -> Named:
        """The oracle of relevance, for those who need none of the data."""
        return cls.behaviour(settings).oracle

    @property
    def measures(self) -> Measures:
        """The task's declarations, in the order of tables."""
        shares = list(self.shares.values())
        judges = [share.judge for share in shares] if self.told.judge else []
        declared: list[Measure] = [
            *(share.fraction for share in shares),
            *judges,
            *PERPLEXITIES.values(),
            *FLUENCY,
            BASE_NLL,
            *(variant for share in shares for variant in share.variants),
        ]
        return Measures(tuple(declared))

    def describe(self) -> list[str]:
        groups = Counter((context.group, context.split) for context in self._contexts)
        lines = [
            f"data    {count:5d} {group} contexts in {split}"
            for (group, split), count in sorted(groups.items())
        ]
        texts = Counter(
            (passage.domain, passage.split) for part in self._texts.values() for passage in part
        )
        return lines + [
            f"data    {count:5d} {domain} passages in {split}"
            for (domain, split), count in sorted(texts.items())
        ]

    def contexts(self, split: Split, kind: ContextKind) -> list[Context]:
        group = self.groups[kind]
        return [c for c in self._contexts if c.split == split and c.group == group]

    def passages(self, split: Split) -> dict[str, list[Passage]]:
        """Passages of a split, in and out of the domain."""
        return {
            domain: [passage for passage in part if passage.split == split]
            for domain, part in self._texts.items()
        }

    def prompt(self, context: Context, instruction: str, style: str, tokenizer: Any) -> str:
        return instructed(context, instruction, style, tokenizer)

    def materials(self, bench: Bench, run: RunDir, needs: frozenset[Need]) -> Materials:
        return behaviour_materials(self, bench, run, needs)

    def read_utility(self, bench: Bench, model: ModelRef, split: Split) -> dict[str, ClusterMean]:
        found = {}
        for domain, passages in self.passages(split).items():
            asked = running_text.windows(passages, bench.tokenizer, bench.config.perplexity)
            read = running_text.perplexity(bench.endpoint.run(model, list(asked)))
            found[PERPLEXITIES[domain].name] = read
        return found

    def read_target(
        self, bench: Bench, model: ModelRef, split: Split, sampling: Sampling
    ) -> dict[str, ClusterMean]:
        contexts = self.contexts(split, "forget")
        samples = sample_model(bench, model, Asked.bare(self.name, contexts), sampling)
        share = self.shares[self.groups["forget"]]
        target = share.read(samples, contexts)[share.fraction.name]
        return {share.fraction.name: target, **fluency_measures(samples, contexts)}

    def evaluate(
        self, bench: Bench, model: ModelRef, name: str, folder: Path
    ) -> dict[str, Estimate]:
        """As of `Task`; a model of another vocabulary has no measure that is counted in tokens."""
        settings = bench.config.evaluate
        split = settings.split
        order = self.contexts(split, "forget") + self.contexts(split, "retain")
        asked = Asked.bare(self.name, order)
        own = bench.beside(model) if name in settings.others else bench
        describe = f"{name}: continuations of {len(order)} contexts"
        samples = sample_model(own, model, asked, settings.sampling, describe)
        write_rows(folder / f"{name}.parquet", samples)
        found: dict[str, Estimate] = {}
        for share in self.shares.values():
            found |= share.read(samples, order)
        if self.told.judge:
            judge = make_oracle(self.told.judge)
            scores = judge.score([s.prompt for s in samples], [s.text for s in samples])
            judged = [replace(s, score=float(v)) for s, v in zip(samples, scores, strict=True)]
            for share in self.shares.values():
                found |= share.read_judge(judged, order)
        found |= fluency_measures(samples, order)
        if own is not bench and own.tokenizer.get_vocab() != bench.tokenizer.get_vocab():
            left_out = {measure.name for measure in OF_ONE_VOCABULARY}
            return {key: value for key, value in found.items() if key not in left_out}
        found |= self.read_utility(own, model, split)
        found[BASE_NLL.name] = base_likelihood(
            bench, samples, order, BASE_NLL_PER_CONTEXT, f"{name}: base NLL"
        )
        return found

    def _load(self, settings: Any) -> None:
        """Contexts and passages of all sources, without near-copies across splits."""
        sources = [load_contexts(getattr(settings, g), g) for g in self.groups.values()]
        inside = [load_passages(source) for source in settings.in_domain]
        outside = [load_passages(source) for source in settings.out_of_domain]
        contexts = drop_cross_split_duplicates(*sources)
        texts = drop_cross_split_duplicates(*inside, *outside)
        self._contexts = self._asked([context for source in contexts for context in source])
        parts: Mapping[str, Sequence[list[Passage]]] = {
            IN_DOMAIN: texts[: len(inside)],
            OUT_OF_DOMAIN: texts[len(inside) :],
        }
        self._texts = {
            domain: tuple(passage for source in part for passage in source)
            for domain, part in parts.items()
        }

    def _asked(self, contexts: Sequence[Context]) -> tuple[Context, ...]:
        """The contexts as the model is asked them, once copies are known: a template is a run of
        words that all conversations share."""
        if not any(context.messages for context in contexts):
            return tuple(contexts)
        self.gives = self.gives - {"contrasts"}  # these are made by rewriting a context's words
        config = self.config
        tokenizer = tokenizer_of(config.model, config.trust_remote_code)
        if not tokenizer.chat_template:
            raise InputError(
                f"task: found conversations (format messages), but {config.model} has no chat "
                "template; expected a model with one, or contexts of plain text"
            )
        return tuple(
            as_asked(one, tokenizer, f"task.{one.group}, context {one.text[:40]!r}")
            for one in contexts
        )

    def _require_texts(self) -> None:
        """Raises InputError where a split that some stage reads holds nothing."""
        evaluated = self.config.evaluate.split
        read: dict[ContextKind, tuple[Split, ...]] = {
            "forget": (Split.REVEAL, Split.TRAIN, Split.SEARCH, evaluated),
            "retain": (Split.RETAIN, evaluated),
        }
        needed: list[tuple[str, Split, int]] = [
            (self.groups[kind], split, len(self.contexts(split, kind)))
            for kind, splits in read.items()
            for split in splits
        ]
        for split in (Split.SEARCH, evaluated):
            needed += [(name, split, len(part)) for name, part in self.passages(split).items()]
        retained_texts = self.passages(Split.RETAIN)[IN_DOMAIN]
        for name, split, count in [*needed, (IN_DOMAIN, Split.RETAIN, len(retained_texts))]:
            if not count:
                raise InputError(
                    f"task.{name}: found no text in split {split}, expected at least one; give it "
                    f"a share in task.{name}.splits"
                )
