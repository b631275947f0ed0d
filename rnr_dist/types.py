"""The nouns of rnr_dist, as frozen dataclasses.

Every room takes and returns these; they hold plain data, import nothing heavy and can be hashed,
pickled and written to Parquet or JSON. Invariant: equal content gives an equal digest, on any
machine and in any process.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, Field


class Split(StrEnum):
    """Disjoint parts of the data; docs/design.md says who may read which.

    `reveal` contexts evaluate arms, `train` contexts fill the forget set, `retain` holds what is
    trained on to keep, merge weights are chosen on `search`, defaults are tuned on `dev`, and
    `final` is read once, at the end.
    """

    REVEAL = "reveal"
    TRAIN = "train"
    RETAIN = "retain"
    SEARCH = "search"
    DEV = "dev"
    FINAL = "final"


def digest(content: Any) -> str:
    """First 16 hex digits of the SHA-256 of `content` as canonical JSON."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Message:
    """One turn of a conversation. `role` is `system`, `user` or `assistant`."""

    role: str
    content: str


@dataclass(frozen=True)
class Context:
    """One generation context of C (Algorithm 1): a text that a model is asked to continue.

    `group` is the task's name for the kind of context; `reference` is the continuation that an
    external data set brings, if any (never used by R&R itself, only by methods on external data),
    `reference_score` how much of the target that set finds in it, in [0, 1], if it does. Of a
    conversation `messages` are its turns up to where the assistant's begins.
    """

    id: str
    text: str
    split: Split
    group: str
    reference: str | None = None
    reference_score: float | None = None
    messages: tuple[Message, ...] = ()


@dataclass(frozen=True)
class Passage:
    """One text of a perplexity or retain source, with its domain (`expository`, `wikitext`...)."""

    id: str
    text: str
    split: Split
    domain: str


@dataclass(frozen=True)
class TokenSequence:
    """A text of fixed tokens: a forget sequence (ICU's x^fgt), one of the pool, or one never seen.

    `token_ids` are the truth; `text` is what they decode to, for embeddings and text scores only,
    since encoding it again need not give them back. The first `prefix_tokens` (t0) are what a model
    is given: the prompt of a response, or the start of a record.
    """

    id: str
    corpus: str
    token_ids: tuple[int, ...]
    text: str
    prefix_tokens: int = 0


@dataclass(frozen=True)
class SamplingSettings:
    """How a continuation is drawn. `temperature` 0 is greedy; `top_p` 1 switches nucleus off.

    A continuation ends with the token that completes one of the strings in `stop`.
    """

    n: int = 1
    max_tokens: int = 20
    temperature: float = 1.0
    top_p: float = 0.9
    stop: tuple[str, ...] = ()


# What an adapter was trained on: texts to forget, or texts to retain.
Side = Literal["forget", "retain"]


@dataclass(frozen=True)
class Adapter:
    """A LoRA (the paper's PEM) on disk in PEFT's format, and the model that it was trained on.

    `path` is where it lies; `digest` is of its weights and identifies it wherever it lies. `side`
    was called `role` in the files of earlier versions.
    """

    path: str
    digest: str
    trained_on: str
    side: Annotated[Side, Field(validation_alias=AliasChoices("side", "role"))]


@dataclass(frozen=True)
class Term:
    """One summand of Eq. 1: `coefficient` times the adapter's delta."""

    coefficient: float
    adapter: Adapter


@dataclass(frozen=True)
class ModelRef:
    """A checkpoint plus ordered (coefficient, adapter) terms: Phi(t) of Eq. 1 as pure data.

    `checkpoint` is an absolute folder or a hub name, `checkpoint_digest` identifies its weights.
    """

    checkpoint: str
    checkpoint_digest: str
    terms: tuple[Term, ...] = ()

    @property
    def digest(self) -> str:
        """Identity of the composed weights; paths play no part in it."""
        terms = [[term.coefficient, term.adapter.digest] for term in self.terms]
        return digest([self.checkpoint_digest, terms])

    def plus(self, coefficient: float, adapter: Adapter) -> ModelRef:
        """This model with one more term (a negative coefficient subtracts)."""
        return replace(self, terms=(*self.terms, Term(coefficient, adapter)))


RowKind = Literal["reference", "control", "step", "method", "other"]


@dataclass(frozen=True)
class NamedModel:
    """A model that becomes a row of the table.

    kind: `reference` is what the others are compared with (the base, or the model that memorised),
    `control` a model that the recipe does not pass through, `step` one of the recipe's own method,
    the last of which is its result, `method` one that is put beside it, `other` any further one.
    """

    name: str
    kind: RowKind
    model: ModelRef


@dataclass(frozen=True)
class Arm:
    """One soft prompt P_i: its Sobol coordinates and the instruction decoded from it."""

    id: int
    coordinates: tuple[float, ...]
    instruction: str


@dataclass(frozen=True)
class Sample:
    """One generated continuation: the row that every generation in the system becomes."""

    model: str
    task: str
    split: Split
    group: str
    context_id: str
    index: int
    prompt: str
    instruction: str
    token_ids: tuple[int, ...]
    text: str
    finish_reason: str
    score: float
    oracle: str
    pull_id: str = ""


@dataclass(frozen=True)
class Pull:
    """One evaluation of an arm: what the bandit is told and what rescoring needs.

    `embeddings` is n x d, one row a sample, so that any later forget set rescores it without a
    model call; `relevance` is tau, `vendi` the diversity, `score` their weighted harmonic mean,
    `forget_set_version` the outer iteration whose D it was scored under.
    """

    id: str
    outer: int
    arm: int
    instruction: str
    relevance: float
    vendi: float
    score: float
    forget_set_version: int
    n_samples: int
