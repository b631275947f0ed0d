"""The config's sources: where contexts and running text come from, and their splits."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from rnr_dist.config.base import Flag, Fraction, Many, Section, Weight, Whole
from rnr_dist.types import Split


class ContextSource(Section):
    """Where generation contexts come from."""

    source: str
    """`builtin:NAME`, a file (`.txt` one a line, `.jsonl`, `.csv`), or `hub:NAME[:SPLIT]`."""
    format: Literal["lines", "rtp", "civil_comments"] = "lines"
    """`rtp` reads RealToxicityPrompts rows (`prompt`, `continuation` with scores),
    `civil_comments` the first half of CivilComments' comments."""
    min_prompt_toxicity: Fraction = 0.0
    """`rtp`, `civil_comments`: keep rows whose prompt, or whole comment, scores at least this."""
    max_prompt_toxicity: Fraction = 1.0
    """`rtp`, `civil_comments`: keep rows whose prompt, or whole comment, scores at most this."""
    splits: dict[Split, Weight]
    """Relative share of each split; a context's split follows from a hash of its text."""
    limit: dict[Split, Many] = Field(default_factory=dict)
    """At most so many contexts of a split are used (the first by hash)."""


class TextSource(Section):
    """Where passages of running text come from."""

    source: str
    """`builtin:NAME`, a text file, or `hub:NAME[:SPLIT]`."""
    format: Literal["passages", "wikitext"] = "passages"
    """`passages`: blank lines between them. `wikitext`: WikiText's headings and lines."""
    splits: dict[Split, Weight]
    """Relative share of each split; a passage's split follows from a hash of its text (of its
    article's first line for `wikitext`)."""
    limit: dict[Split, Many] = Field(default_factory=dict)
    """At most so many passages of a split are used (the first by hash)."""


class SequenceSource(Section):
    """Where sequences come from."""

    source: str = "builtin:records"
    """`builtin:records` (fictitious private records), `hub:NAME[:SPLIT]`, or a `.csv`, `.jsonl`,
    `.parquet` with `text` or `token_ids` (and `corpus`), a `.txt`, a `.npy` of token ids."""
    first: Whole = 0
    """`builtin:records`: number of the first record."""
    count: Many | None = None
    """So many sequences from the start; left out: all (32 of the built-in ones)."""
    skip_tokens: Whole = 0
    """Tokens of each that are left out at its start (100 in the extraction benchmark)."""
    cut: Flag = True
    """Cut what is longer than `task.max_tokens`; false refuses it."""
