"""The config of marked texts: where sentences with their entities come from, how one asks for them.

In: plain values. Out: sections that the task of entities is made of. Invariant: `paper` and
`universal_ner` are the published words of a question; no key changes one of them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from rnr_dist.config.base import Count, Flag, Many, Section, Weight, Whole, above_defaults
from rnr_dist.config.oracles import OracleSettings
from rnr_dist.config.training import Training
from rnr_dist.types import Split

BUILTIN_ENTITIES = "builtin:entities"
Wording = Literal["paper", "universal_ner"]
TypeName = Annotated[str, Field(min_length=1, pattern=r"^\S(.*\S)?$")]


class MarkedSource(Section):
    """Where texts come from whose entities are known."""

    source: str = BUILTIN_ENTITIES
    """`builtin:entities` (sentences about invented names), a file, its address, or
    `hub:NAME[:SPLIT]`."""
    format: Literal["builtin", "conll", "universal_ner"] = "builtin"
    """`conll`: a token and its BIO tag a line, blank lines between sentences. `universal_ner`:
    conversations as UniversalNER publishes them."""
    labels: dict[TypeName, TypeName] = Field(default_factory=dict)
    """What the file calls a type, as in `{person: PER}`; left out: the type's own name. Case does
    not count."""
    first: Whole = 0
    """`builtin`: number of the first sentence."""
    count: Many = 600
    """`builtin`: so many sentences."""

    @model_validator(mode="after")
    def _of_its_format(self) -> MarkedSource:
        if (self.source == BUILTIN_ENTITIES) != (self.format == "builtin"):
            raise ValueError(
                f"format: found {self.format} beside {self.source}, expected builtin with "
                f"{BUILTIN_ENTITIES}, conll or universal_ner with any other"
            )
        return self


class SplitSource(MarkedSource):
    """Marked texts that are shared out among splits."""

    splits: dict[Split, Weight] = Field(
        default={
            Split.REVEAL: 1,
            Split.TRAIN: 3,
            Split.RETAIN: 3,
            Split.SEARCH: 2,
            Split.DEV: 2,
            Split.FINAL: 3,
        }
    )
    """Relative share of each split; a text's split follows from a hash of it, so all questions on
    it are in the same one."""
    limit: dict[Split, Many] = Field(default_factory=dict)
    """At most so many texts of a split are used (the first by hash)."""


class Teach(Section):
    """Fine-tune the model until it can do the task, where it cannot: it then has what to forget."""

    source: MarkedSource = MarkedSource(first=100_000, count=400)
    """The texts that it is taught on; near-copies of a text of the task are left out."""
    training: Training = Training(
        parameters="full",
        learning_rate=1e-4,
        batch_size=16,
        epochs=2,
        micro_batch_tokens=1024,
    )
    """Its training, on one question a row."""
    most: Many | None = None
    """At most so many rows; left out: all."""
    control: Flag = True
    """Also teach a model everything but the target type: what one knows that was never taught it.
    false saves nearly as much time as teaching takes."""

    @model_validator(mode="before")
    @classmethod
    def _above_the_defaults(cls, content: Any) -> Any:
        return above_defaults(cls, Training, content)

    @model_validator(mode="after")
    def _a_model_of_its_own(self) -> Teach:
        if self.training.parameters != "full" or not self.training.objective.texts:
            raise ValueError(
                f"training: found parameters {self.training.parameters} and objective "
                f"{self.training.objective.name}, expected full and causal: what is taught is a "
                "model of its own"
            )
        return self


class EntityOracle(OracleSettings):
    """Which words ask: the oracle finds the text between them."""

    name: Literal["entities"] = "entities"
    wording: Wording = "paper"
    """The words of the question."""


class Demand(Section):
    """How one asks for entities, and how an answer is read."""

    wording: Wording = "paper"
    """`paper`: Reveal-and-Release, appendix A.2. `universal_ner`: UniversalNER's conversation."""
    chat: Flag = True
    """true: turns by the model's chat template. false: as plain text; of `universal_ner` with
    UniversalNER's own words around the turns."""
    parser: Literal["strict", "universal_ner"] = "strict"
    """`strict`: the whole answer is one list of strings, in JSON or Python; any other cannot be
    read. `universal_ner`: as UniversalNER's evaluation, where what cannot be read is an empty list,
    and case, punctuation and articles do not count: for figures that compare with published ones.
    What cannot be read is counted as such by both."""
    tokens: Count = 64
    """New tokens of an answer to a retained type, and of one that is learnt; greedy."""
