"""Which split a text belongs to, and which texts are too alike to stand in two splits.

In: texts and the shares of the splits. Out: splits, and texts without near-copies of another
split's. Pure. Invariant: everything follows from the normalised text alone, so the order of a
file, the machine and what else is in the file change nothing.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TypeVar

from rnr_dist.data.words import bare_words
from rnr_dist.errors import InputError
from rnr_dist.types import Context, Passage, Split

# Where two splits hold near-copies, the text stays in the one whose measure it would falsify most.
HONESTY = tuple(reversed(Split))
# Words in a row that two texts must have in common to share anything.
SHINGLE_WORDS = 5
# Two texts that are both shorter than this share too few of those, so they are compared by three.
SHORT_TEXT_WORDS = 8
SHORT_SHINGLE_WORDS = 3
# Share of the shorter text's shingles that makes a near-copy.
NEAR_COPY = 0.5

Located = tuple[Split, str]
Text = TypeVar("Text", bound=Context | Passage)


def normalised(text: str) -> str:
    """`text` case-folded, with single spaces: what identity, split and order are taken from."""
    return " ".join(text.casefold().split())


def position(text: str) -> float:
    """A number in [0, 1) that follows from the normalised text, uniform over texts."""
    head = hashlib.sha256(normalised(text).encode()).digest()[:6]
    return int.from_bytes(head, "big") / 2**48


def split_of(text: str, shares: Mapping[Split, float]) -> Split:
    """The split in whose part of [0, 1) the text's position lies.

    The parts follow one another in Split's order and are as wide as the relative `shares`. Raises
    InputError where no share is above 0.
    """
    wanted = [split for split in Split if shares.get(split, 0) > 0]
    if not wanted:
        raise InputError("splits: found no share above 0, expected at least one")
    left = position(text) * sum(shares[split] for split in wanted)
    for split in wanted:
        left -= shares[split]
        if left < 0:
            return split
    return wanted[-1]  # rounding can leave a remainder at the upper end


def near_duplicates(
    texts_by_split: Mapping[Split, Sequence[str]],
) -> list[tuple[Located, Located]]:
    """Pairs of texts in different splits of which the shorter is largely contained in the other.

    Largely: half or more of its runs of five words (of scripts without spaces: of five characters),
    case and punctuation aside; texts under eight words are compared with one another by runs of
    three. Each pair is ((split, text), (split, text)), the split that comes first in HONESTY first.
    10,000 passages take some seconds.
    """
    located = [
        (split, text) for split in HONESTY for text in dict.fromkeys(texts_by_split.get(split, ()))
    ]
    words = [bare_words(text.casefold()) or [text] for _, text in located]
    splits = [split for split, _ in located]
    short = [index for index, own in enumerate(words) if len(own) < SHORT_TEXT_WORDS]
    pairs = _overlapping(range(len(words)), words, splits, SHINGLE_WORDS)
    pairs |= _overlapping(short, words, splits, SHORT_SHINGLE_WORDS)
    return [(located[first], located[second]) for first, second in sorted(pairs)]


def drop_cross_split_duplicates(*sources: Sequence[Text]) -> list[list[Text]]:
    """The sources without texts that have a near-copy in another split, of any of the sources.

    Of two near-copies the one in the split that comes first in HONESTY (final, dev, search,
    retain, train, reveal) stays. Near-copies within one split stay.
    """
    texts_by_split: dict[Split, list[str]] = defaultdict(list)
    for item in (item for source in sources for item in source):
        texts_by_split[item.split].append(item.text)
    dropped: set[Located] = set()
    # Sorted by the earlier text, so that its own fate is known when it is compared.
    for earlier, later in near_duplicates(texts_by_split):
        if earlier not in dropped:
            dropped.add(later)
    return [
        [item for item in source if (item.split, item.text) not in dropped] for source in sources
    ]


def _overlapping(
    members: Sequence[int], words: Sequence[list[str]], splits: Sequence[Split], size: int
) -> set[tuple[int, int]]:
    """Index pairs of different splits that share NEAR_COPY of the shorter one's shingles."""
    shingles = {index: _shingles(words[index], size) for index in members}
    holders: dict[int, list[int]] = defaultdict(list)
    for index, own in shingles.items():
        for shingle in own:
            holders[shingle].append(index)
    shared = Counter(
        pair
        for indices in holders.values()
        for pair in combinations(indices, 2)
        if splits[pair[0]] is not splits[pair[1]]
    )
    return {
        (first, second)
        for (first, second), count in shared.items()
        if count >= NEAR_COPY * min(len(shingles[first]), len(shingles[second]))
    }


def _shingles(words: list[str], size: int) -> set[int]:
    """Hashes (of this process) of all runs of `size` words; of all words where there are fewer."""
    return {
        hash(tuple(words[start : start + size])) for start in range(max(1, len(words) - size + 1))
    }
