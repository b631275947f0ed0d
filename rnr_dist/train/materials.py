"""What methods train on: the forget set, and what a task can give beside it.

In: what reveal found or the task holds. Out: `Materials`. Invariant: every method sees the same,
and nothing of the splits that weights are chosen on or models are judged on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import cycle
from typing import Literal, get_args

import numpy as np

from rnr_dist.train.collate import Example, Item
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
    the best first. others: analogous sequences, those that pairs are taken from; their ends are
    wrong answers (LLMU's mismatches).
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

    def only(self, needs: frozenset[Need]) -> Materials:
        """Without what a method does not need: what others need must not change what it does."""
        unused = set(get_args(Need)) - needs - {"forget"}
        defaults = type(self)(())
        return replace(
            self,
            **{one.name: getattr(defaults, one.name) for one in fields(self) if one.name in unused},
        )

    def paired(self, sequence: TokenSequence, whole: bool = False) -> list[Example]:
        """The pairs of a forget sequence, learnt from their own t0 on, or all of them."""
        return [example_of(pair, whole) for pair in self.pairs.get(sequence.id, ())]


def example_of(sequence: TokenSequence, whole: bool = False) -> Example:
    """A sequence of which all that follows its prefix is learnt, or (`whole`) every token."""
    return Example(sequence.token_ids, 0 if whole else sequence.prefix_tokens)


def other_end(sequence: TokenSequence, other: TokenSequence) -> Example:
    """The sequence's prefix and the other's end: an answer that is not the target's."""
    prefix = sequence.token_ids[: sequence.prefix_tokens]
    return Example((*prefix, *other.token_ids[other.prefix_tokens :]), len(prefix))


def paired_texts(forget: Sequence[Example], retain: Sequence[Example]) -> list[Item]:
    """One item an example of the longer list; the shorter starts again when it ends."""
    longer = max(len(forget), len(retain))
    pairs = zip(range(longer), cycle(forget), cycle(retain))
    return [Item.of(forget=[one], retain=[other]) for _, one, other in pairs]


def with_retained(
    items: Sequence[Item], chosen: Sequence[int], retained: Sequence[Example], each: int, seed: int
) -> list[Item]:
    """The items, those chosen with `each` of `retained` as the part `retain`.

    Another `seed` draws others; none is drawn again before all are.
    """
    order = np.random.default_rng(seed).permutation(len(retained))
    drawn = np.resize(order, (len(chosen), min(each, len(retained))))
    now = list(items)
    for index, row in zip(chosen, drawn, strict=True):
        beside = tuple(("retain", retained[place]) for place in row)
        now[index] = Item((*items[index].members, *beside))
    return now
