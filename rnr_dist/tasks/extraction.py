"""Forget given token sequences: memorised records, private text (ICU).

In: the config. Out: a `Task` with sequences. Invariant: no sequence stands in two of the sets; the
forget sequences are fixed token ids, and every model is read on the same ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from rnr_dist.bench import Bench
from rnr_dist.config.base import Count, Sampling
from rnr_dist.config.oracles import Named
from rnr_dist.config.schema import Config, TaskSettings
from rnr_dist.config.sources import SequenceSource, TextSource
from rnr_dist.data.pairing import check_exclusion
from rnr_dist.data.problems import Dialogue, Question, load_problems
from rnr_dist.data.sequences import RECORDS, check_disjoint, load_sequences
from rnr_dist.data.sources import load_passages
from rnr_dist.data.splits import drop_cross_split_duplicates
from rnr_dist.errors import InputError
from rnr_dist.measures.measure import Measures
from rnr_dist.measures.memorisation import Counting, recall
from rnr_dist.measures.pool_reader import PoolReader
from rnr_dist.measures.problems import CHOICES, REPLIES
from rnr_dist.measures.results import Estimate
from rnr_dist.measures.sequence_rows import (
    DISTINCT,
    EL_T0,
    ENTROPY,
    LENGTH,
    PERPLEXITY,
    POOL_NLL,
    declared,
    measures_of,
)
from rnr_dist.measures.similarity import Similar, similarity_scores
from rnr_dist.run.directory import RunDir, write_rows
from rnr_dist.stats import ClusterMean
from rnr_dist.tasks.extraction_evaluation import (
    AskedModel,
    Manner,
    Sets,
    general_perplexity,
    read_model,
    recalled_row,
    translated,
)
from rnr_dist.tasks.extraction_materials import extraction_materials
from rnr_dist.tasks.prompts import tokenizer_of
from rnr_dist.tasks.task import ContextKind, Gives
from rnr_dist.train.materials import Materials, Need
from rnr_dist.types import Context, ModelRef, Passage, Split, TokenSequence
from rnr_dist.weights.checkpoints import check_model

SETS = ("forget", "pool", "unseen", "tuning")


class ExtractionSettings(TaskSettings):
    """Forget given token sequences: memorised records, private text."""

    only_evaluated: ClassVar[frozenset[str]] = frozenset(
        {"sampled", "sampled_n", "choices", "dialogues"}
    )
    name: Literal["extraction"] = "extraction"
    forget: SequenceSource = SequenceSource(count=32)
    """What must be forgotten."""
    pool: SequenceSource = SequenceSource(first=300, count=96)
    """Analogous sequences that stay: pairs are taken from them (the paper's D)."""
    unseen: SequenceSource = SequenceSource(first=600, count=32)
    """Sequences of the same kind that the model has never seen: the level of having forgotten."""
    tuning: SequenceSource = SequenceSource(first=700, count=32)
    """Memorised with the others; settings of methods by epochs are chosen on them, never on
    `forget`."""
    general: list[TextSource] = Field(
        default=[
            TextSource(
                source=f"builtin:{name}", splits={Split.RETAIN: 2, Split.SEARCH: 1, Split.FINAL: 1}
            )
            for name in ("narrative", "practical")
        ],
        min_length=1,
    )
    """General text: on perplexity of its `search` split settings are chosen, the split that is
    evaluated is read at the end, and its `retain` split is rehearsed while the sequences are
    memorised."""
    prefix_tokens: Count = 50
    """t0: the tokens that a model is given."""
    max_tokens: Count = 100
    """T: the tokens of a sequence."""
    n: Count = 10
    """n of EL_n: tokens of the n-grams that extraction is counted in."""
    sampled: Sampling = Sampling(n=10, max_tokens=50, temperature=1.0, top_p=1.0)
    """Sampled extraction: continuations of each prefix; `max_tokens` is at most T - t0."""
    sampled_n: Count = 5
    """Tokens of the n-grams that sampled extraction is counted in."""
    choices: str | None = "builtin:choices"
    """Questions whose right ending a model must find likeliest, of `question`, `choices` and the
    number of the right one, `answer`: a `.jsonl` or `.parquet`; null leaves them out."""
    dialogues: str | None = "builtin:dialogues"
    """Conversations whose next turn is generated: `context` (turns) and `reply`."""

    @model_validator(mode="after")
    def _room_for_grams(self) -> ExtractionSettings:
        if self.prefix_tokens + self.n > self.max_tokens:
            raise ValueError(
                f"prefix_tokens {self.prefix_tokens} and n {self.n} together must not be above "
                f"max_tokens {self.max_tokens}"
            )
        return self

    @model_validator(mode="after")
    def _of_one_kind(self) -> ExtractionSettings:
        own = [key for key in SETS if getattr(self, key).source != RECORDS]
        left = [key for key in SETS if key not in self.model_fields_set]
        if own and left:
            raise ValueError(
                f"found {own[0]} from {getattr(self, own[0]).source}, but no {', '.join(left)}, "
                "for which built-in records would stand; expected all of forget, pool, unseen and "
                "tuning, of one kind"
            )
        return self


class Extraction:
    """The task. `n` of its `counting` and the sequences' own prefixes say what EL and MA mean."""

    Settings: ClassVar[type[TaskSettings]] = ExtractionSettings
    recipe: ClassVar[str] = "unlearn-sequences"
    gives: ClassVar[frozenset[Gives]] = frozenset(
        {"sequences", "forget", "pairs", "retain", "alternatives"}
    )
    # Nobody asks for the relevance of a response: what of a sequence is recalled is counted.
    oracle: Named = ""
    target_above = 0.5

    def __init__(self, config: Config):
        settings = config.task
        assert isinstance(settings, ExtractionSettings)
        self._config, self._settings = config, settings
        self.max_tokens = settings.max_tokens
        if self.max_tokens >= config.engines.max_model_len:
            raise InputError(
                f"task.max_tokens {self.max_tokens} must be below engines.max_model_len "
                f"{config.engines.max_model_len}"
            )
        _require_known(config, settings)
        self._tokenizer = tokenizer_of(config.model, config.trust_remote_code)
        self.counting = Counting(
            settings.n,
            "label" if config.preset == "reference" else "generated",
            self._tokenizer.eos_token_id,
        )
        self._load(settings)
        self.general = self._general(settings)
        self.questions = load_problems(settings.choices, Question) if settings.choices else ()
        self.dialogues = load_problems(settings.dialogues, Dialogue) if settings.dialogues else ()
        self.measures = self._declared()
        for name, model in config.evaluate.others.items():
            self._check_other(f"evaluate.others.{name}", model)
        self._scoring: tuple[Bench, Similar] | None = None

    def _load(self, settings: ExtractionSettings) -> None:
        """The four sets. Raises InputError."""
        least = settings.prefix_tokens + settings.n
        sets = {
            f"task.{key}": load_sequences(
                getattr(settings, key), self._tokenizer, settings.prefix_tokens, self.max_tokens
            )
            for key in SETS
        }
        check_disjoint(sets)
        for key, sequences in sets.items():
            for sequence in sequences:
                if len(sequence.token_ids) < least:
                    raise InputError(
                        f"{key}: {sequence.text[:40]!r} has {len(sequence.token_ids)} tokens; "
                        f"expected at least task.prefix_tokens + task.n, {least}, to count "
                        "extraction in"
                    )
        pairing, pool = self._config.pairing, sets["task.pool"]
        if len(pool) < pairing.k:
            raise InputError(
                f"task.pool: found {len(pool)} sequences, expected at least pairing.k {pairing.k}"
            )
        self.forget, self.pool, self.unseen, self.tuning = map(tuple, sets.values())
        check_exclusion([*self.forget, *self.tuning], self.pool, pairing)

    def _general(self, settings: ExtractionSettings) -> Mapping[Split, tuple[Passage, ...]]:
        passages, *_ = drop_cross_split_duplicates(
            [passage for source in settings.general for passage in load_passages(source)]
        )
        general = {split: tuple(one for one in passages if one.split is split) for split in Split}
        for split in (Split.SEARCH, self._config.evaluate.split):
            if not general[split]:
                raise InputError(f"task.general: holds no text in the split {split}; expected some")
        return general

    def _declared(self) -> Measures:
        left_out = {
            measure
            for measure, asked in ((CHOICES, self.questions), (REPLIES, self.dialogues))
            if not asked
        }
        found = declared(self._config.stopping)
        return Measures(tuple(measure for measure in found if measure not in left_out))

    def _check_other(self, key: str, model: str) -> None:
        """Raises InputError unless `model` can be read on the forget sequences."""
        try:
            check_model(model)
            tokenizer = tokenizer_of(model, self._config.trust_remote_code)
        except InputError as error:
            raise InputError(f"{key}: {error}") from error
        if tokenizer.get_vocab() == self._tokenizer.get_vocab():
            return
        longest = self._config.engines.max_model_len
        for one in translated([*self.forget, *self.unseen], self._tokenizer, tokenizer):
            after = len(one.token_ids) - one.prefix_tokens
            if after < self.counting.n or len(one.token_ids) >= longest:
                raise InputError(
                    f"{key}: {one.text[:40]!r} has {after} tokens after its prefix and "
                    f"{len(one.token_ids)} in all in the vocabulary of {model}; expected at least "
                    f"task.n {self.counting.n}, and fewer than engines.max_model_len {longest}"
                )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_scoring": None}

    def describe(self) -> list[str]:
        lines = [f"data    {len(getattr(self, name)):5d} sequences in {name}" for name in SETS]
        for split, passages in self.general.items():
            if passages:
                lines.append(f"data    {len(passages):5d} passages of general text in {split}")
        for name in ("questions", "dialogues"):
            lines.append(f"data    {len(getattr(self, name)):5d} {name}")
        return lines

    def contexts(self, split: Split, kind: ContextKind) -> list[Context]:
        """None: sequences are tokens, and what precedes their end is part of them."""
        return []

    def prompt(self, context: Context, instruction: str, style: str, tokenizer: Any) -> str:
        return context.text

    def materials(self, bench: Bench, run: RunDir, needs: frozenset[Need]) -> Materials:
        return extraction_materials(bench, self, run, self.forget, needs)

    def materials_of(
        self, bench: Bench, run: RunDir, sequences: Sequence[TokenSequence]
    ) -> Materials:
        """All that can be given to forget these sequences."""
        every: frozenset[Need] = frozenset({"forget", "pairs", "retain", "alternatives"})
        return extraction_materials(bench, self, run, sequences, every)

    def read_utility(self, bench: Bench, model: ModelRef, split: Split) -> dict[str, ClusterMean]:
        asked = AskedModel(bench.endpoint, model, bench.tokenizer, "")
        return {
            PERPLEXITY.name: general_perplexity(
                asked, self.general[split], self._config.perplexity
            ),
            POOL_NLL.name: PoolReader(asked.pool, model).nll(self.pool, POOL_NLL),
        }

    def read_target(
        self, bench: Bench, model: ModelRef, split: Split, sampling: Sampling
    ) -> dict[str, ClusterMean]:
        """Of the forget sequences whatever the split, by greedy continuations, so that nothing is
        drawn: what must be forgotten is these sequences and no others. So the candidate of a merged
        method is chosen by the very sequences that the table reads."""
        asked = AskedModel(bench.endpoint, model, bench.tokenizer, "")
        found = recall(PoolReader(asked.pool, model), self.forget, self.counting, "given")
        values = measures_of(
            [recalled_row(asked, *pair) for pair in zip(self.forget, found, strict=True)]
        )
        return {one.name: values[one.name] for one in (EL_T0, ENTROPY, LENGTH, DISTINCT)}

    def evaluate(
        self, bench: Bench, model: ModelRef, name: str, folder: Path
    ) -> dict[str, Estimate]:
        """As of `Task`; a model of another vocabulary has no measure that is counted in tokens."""
        settings, other = self._settings, name in self._config.evaluate.others
        tokenizer, sets = bench.tokenizer, self._sets()
        if other:
            tokenizer = tokenizer_of(model.checkpoint, self._config.trust_remote_code)
        foreign = tokenizer.get_vocab() != bench.tokenizer.get_vocab()
        counting = replace(self.counting, eos=tokenizer.eos_token_id)
        if foreign:
            forget, unseen = (
                translated(part, bench.tokenizer, tokenizer) for part in (sets.forget, sets.unseen)
            )
            sets = replace(sets, forget=forget, unseen=unseen)
        rows, measures = read_model(
            AskedModel(
                bench.endpoint_of(model if other else bench.base), model, tokenizer, name, foreign
            ),
            sets,
            Manner(counting, settings.sampled, settings.sampled_n, self._config.perplexity),
            self._similar(bench),
        )
        write_rows(folder / f"{name}.parquet", rows)
        return measures

    def _sets(self) -> Sets:
        general = self.general[self._config.evaluate.split]
        texts = self.questions, self.dialogues
        return Sets(self.forget, self.unseen, self.pool, general, *texts)

    def _similar(self, bench: Bench) -> Similar:
        """The scorer of texts, started once and ended with the bench."""
        if self._scoring is None or self._scoring[0] is not bench:
            rule = self._config.refinement
            similar = bench.enter(lambda: similarity_scores(rule.scorer, rule.scorer_layer))
            self._scoring = bench, similar
        return self._scoring[1]


def _require_known(config: Config, settings: ExtractionSettings) -> None:
    """Raises InputError where a setting would be chosen on records that nobody taught the model."""
    method = config.methods.found(config.own_method)
    places = len(method.grid) if method else 1
    if not config.memorise.enabled and places > 1 and "tuning" not in settings.model_fields_set:
        raise InputError(
            f"task.tuning: found none beside memorise.enabled false, so the {places} places of "
            f"methods.{config.own_method}.grid would be tried on built-in records, which the model "
            "never learnt; expected sequences that it knows, or a grid of one place"
        )
