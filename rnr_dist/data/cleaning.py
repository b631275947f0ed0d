"""Texts cleaned piece by piece: each segment that an oracle marks is written anew.

In: contexts, who marks a segment, who goes on from a text. Out: their cleaned texts. Invariant: a
segment is marked and rewritten behind what was already cleaned; what is not marked stays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rnr_dist.data.words import PAUSE, WORD
from rnr_dist.types import Context


def segments(text: str, words: int) -> list[str]:
    """A text cut behind punctuation and after `words` words at most; joined they are the text."""
    found = list(WORD.finditer(text))
    starts = [word.start() for word in found] + [len(text)]
    cut, first = [], 0
    for after, word in enumerate(found, start=1):
        if after == len(found) or after - first >= words or PAUSE.search(text, *word.span()):
            cut.append(text[starts[first] : starts[after]])
            first = after
    return cut


def cleaned(
    contexts: Sequence[Context],
    words: int,
    marked: Callable[[list[str]], Sequence[bool]],
    rewrite: Callable[[list[str]], Sequence[str]],
) -> dict[str, str]:
    """{context id: its text with every marked segment written anew} (CMD, step one).

    marked: which of these segments hold the target. rewrite: for each text so far, other words to
    go on with. Segment by segment from the left, all contexts together.
    """
    cut = {context.id: segments(context.text, words) for context in contexts}
    clean = dict.fromkeys(cut, "")
    for place in range(max(map(len, cut.values()), default=0)):
        here = {name: parts[place] for name, parts in cut.items() if place < len(parts)}
        marks = dict(zip(here, marked(list(here.values())), strict=True))
        # Nothing stands before a first segment that other words could go on from.
        bad = [name for name in here if marks[name] and clean[name].strip()]
        for name in here:
            if name not in bad:
                clean[name] += here[name]
        rewritten = rewrite([clean[name].rstrip() for name in bad]) if bad else []
        for name, text in zip(bad, rewritten, strict=True):
            clean[name] = f"{clean[name].rstrip()} {text.strip()} "
    return {name: text.rstrip() for name, text in clean.items()}
