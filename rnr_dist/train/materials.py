"""What methods train on: the forget set, and what a task can give beside it.

In: what reveal found or the task holds. Out: `Materials`. Invariant: every method sees the same,
and nothing of the splits that weights are chosen on or models are judged on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from rnr_dist.train.collate import Example
from rnr_dist.types import TokenSequence

# `forget`: what must be forgotten, as sequences with their prompts. `retain`: what must stay.
# `pairs`: analogous sequences that stay, one or more a forget sequence (ICU). `alternatives`: other
# responses to a forget sequence's prompt (DPO, LLMU). `external`: (prompt, response) pairs of the
# target that others wrote (PEM-external). `contrasts`: clean and bad responses of one prompt (CMD).
Need = Literal["forget", "retain", "pairs", "alternatives", "external", "contrasts"]


@dataclass(frozen=True)
class Contrast:
    """A prompt's clean response and its bad ones, at most a few (CMD)."""

    positive: Example
    negatives: tuple[Example, ...]


@dataclass(frozen=True)
class Materials:
    """What was asked for; what a task cannot give, or nobody needed, is empty.

    forget: in the order in which items are made. pairs, alternatives: by the forget sequence's id,
    the best first. others: analogous sequences whose ends are wrong answers (LLMU's mismatches).
    token_nats: by token id, mean -log q in never-seen sequences (ICU's natural ceilings).
    """

    forget: tuple[TokenSequence, ...]
    retain: tuple[Example, ...] = ()
    pairs: Mapping[str, tuple[TokenSequence, ...]] = field(default_factory=dict)
    alternatives: Mapping[str, tuple[Example, ...]] = field(default_factory=dict)
    others: tuple[TokenSequence, ...] = ()
    external: tuple[Example, ...] = ()
    contrasts: tuple[Contrast, ...] = ()
    token_nats: Mapping[int, float] = field(default_factory=dict)
    seed: int = 0
