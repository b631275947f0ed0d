"""The config's sources: where contexts and running text come from, and their splits."""

from __future__ import annotations

from operator import not_
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from rnr_dist.config.base import Flag, Fraction, Many, Section, Weight, Whole
from rnr_dist.types import Split


class Source(Section):
    """What sources share."""

    names: ClassVar[tuple[str, ...]] = ("text",)
    """The fields that can be called otherwise in a file."""

    columns: dict[str, Annotated[str, Field(min_length=1)]] = Field(
        default_factory=dict, exclude_if=not_
    )
    """What a file of yours calls its fields, as in `{text: comment}`; dots lead into objects
    (`{text: prompt.text}`). Left out: as the format has them."""

    @model_validator(mode="after")
    def _known_columns(self) -> Source:
        for name in self.columns:
            if name not in self.names:
                raise ValueError(f"columns: found {name}, expected some of {', '.join(self.names)}")
        return self


class ContextSource(Source):
    """Where generation contexts come from."""

    names: ClassVar[tuple[str, ...]] = ("text", "reference", "messages")

    source: str
    """`builtin:NAME`, a file (`.txt` one a line, `.jsonl`, `.json`, `.csv`, `.parquet`, or `.gz` of
    a text file), an address of one (`s3://`, `https://`...), or `hub:NAME[:SPLIT]`."""
    format: Literal["lines", "messages", "rtp", "civil_comments"] = "lines"
    """`lines`: a text each. `messages`: a conversation each, asked by the model's chat template up
    to where the assistant's turn begins; its last turn is the reference. `rtp` reads
    RealToxicityPrompts rows (`prompt`, `continuation` with scores), `civil_comments` the first half
    of CivilComments' comments."""
    min_prompt_toxicity: Fraction = 0.0
    """`rtp`, `civil_comments`: keep rows whose prompt, or whole comment, scores at least this."""
    max_prompt_toxicity: Fraction = 1.0
    """`rtp`, `civil_comments`: keep rows whose prompt, or whole comment, scores at most this."""
    splits: dict[Split, Weight]
    """Relative share of each split; a context's split follows from a hash of its text."""
    limit: dict[Split, Many] = Field(default_factory=dict)
    """At most so many contexts of a split are used (the first by hash)."""

    @model_validator(mode="after")
    def _columns_of_ones_own(self) -> ContextSource:
        if self.columns and self.format not in ("lines", "messages"):
            raise ValueError(
                f"columns: the format {self.format} reads a published data set's own; expected the "
                "format lines or messages beside them"
            )
        if self.format == "messages" and "text" in self.columns:
            raise ValueError("columns: found text, expected messages, which the format reads")
        return self


class TextSource(Source):
    """Where passages of running text come from."""

    source: str
    """`builtin:NAME`, a file, an address of one, or `hub:NAME[:SPLIT]`."""
    format: Literal["passages", "wikitext"] = "passages"
    """`passages`: blank lines between them. `wikitext`: WikiText's headings and lines."""
    splits: dict[Split, Weight]
    """Relative share of each split; a passage's split follows from a hash of its text (of its
    article's first line for `wikitext`)."""
    limit: dict[Split, Many] = Field(default_factory=dict)
    """At most so many passages of a split are used (the first by hash)."""


class SequenceSource(Source):
    """Where sequences come from."""

    names: ClassVar[tuple[str, ...]] = ("text", "token_ids", "corpus")

    source: str = "builtin:records"
    """`builtin:records` (fictitious private records), `hub:NAME[:SPLIT]`, or a file or its address,
    of rows with `text` or `token_ids` (and `corpus`), a `.txt`, a `.npy` of token ids."""
    first: Whole = 0
    """`builtin:records`: number of the first record."""
    count: Many | None = None
    """So many sequences from the start; left out: all (32 of the built-in ones)."""
    skip_tokens: Whole = 0
    """Tokens of each that are left out at its start (100 in the extraction benchmark)."""
    cut: Flag = True
    """Cut what is longer than `task.max_tokens`; false refuses it."""
