"""Which split a marked text belongs to, and which texts are too alike for two of them.

In: marked texts. Out: those that stay, by split. Invariant: no two splits hold near-copies, and
nothing that is taught is a near-copy of what is asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rnr_dist.config.entities import SplitSource
from rnr_dist.data.marked import Marked
from rnr_dist.data.splits import (
    drop_cross_split_duplicates,
    near_duplicates,
    normalised,
    position,
    split_of,
)
from rnr_dist.errors import InputError
from rnr_dist.types import Passage, Split, digest


@dataclass(frozen=True)
class Placed:
    """A marked text with its id and its split."""

    id: str
    split: Split
    marked: Marked


def shared_out(texts: Sequence[Marked], source: SplitSource) -> list[Placed]:
    """The texts with their splits, in order of their hash. Raises InputError for a split that has
    a share and gets none."""
    placed = {
        digest(normalised(one.text)): Placed(
            digest(normalised(one.text)), split_of(one.text, source.splits), one
        )
        for one in texts
    }
    passages = [Passage(key, one.marked.text, one.split, "") for key, one in placed.items()]
    [kept] = drop_cross_split_duplicates(passages)
    kept.sort(key=lambda passage: position(passage.text))
    found: list[Placed] = []
    for split, share in source.splits.items():
        own = [placed[passage.id] for passage in kept if passage.split is split]
        if share > 0 and not own:
            raise InputError(
                f"task.texts: splits.{split} has share {share:g} but got none of {len(texts)} "
                "texts, near-copies aside; expected more texts or no such split"
            )
        found += own[: source.limit.get(split)]
    return found


def without_copies(texts: Sequence[Marked], others: Sequence[Marked]) -> list[Marked]:
    """`texts` without near-copies of `others`."""
    known = {normalised(one.text) for one in others}
    found = [one for one in texts if normalised(one.text) not in known]
    # Any two splits: what counts is that a text of one is compared with all of the other.
    pairs = near_duplicates(
        {Split.REVEAL: [one.text for one in found], Split.FINAL: [one.text for one in others]}
    )
    alike = {text for _, (_, text) in pairs}
    return [one for one in found if one.text not in alike]
