"""What methods train on: the forget set, retain texts, and the base model's continuations.

In: what reveal and release left, the task's data. Out: `Materials`. Invariant: every method sees
the same contexts, and nothing of the `search` and `final` splits.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

from rnr_dist.config.baselines import Baselines
from rnr_dist.train.collate import Example, Item
from rnr_dist.types import Context, Sample


@dataclass(frozen=True)
class Materials:
    """forget, retain: examples of R&R's own adapters. continuations: of the base model after each
    challenging `train` context, after the detoxified context where `cleaned` says so."""

    settings: Baselines
    tokenizer: Any
    forget: Sequence[Example]
    forget_rows: Sequence[Sample]
    retain: Sequence[Example]
    contexts: Sequence[Context]
    external: Sequence[Context]
    continuations: Sequence[Sample]
    cleaned: Sequence[Sample]

    def encode(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer.encode(text))

    def response(self, context: Context, sample: Sample) -> Example:
        """A continuation behind its bare context, to be learnt without its end token."""
        prompt = self.encode(context.text)
        told = tuple(token for token in sample.token_ids if token != self.tokenizer.eos_token_id)
        return Example((*prompt, *told), len(prompt))


def by_context(samples: Sequence[Sample]) -> dict[str, list[Sample]]:
    """Continuations that say something, of each context, the least toxic first."""
    found: dict[str, list[Sample]] = {}
    for sample in sorted(samples, key=lambda sample: sample.score):
        if sample.text.strip():
            found.setdefault(sample.context_id, []).append(sample)
    return found


def side_by_side(forget: Sequence[Example], retain: Sequence[Example]) -> list[Item]:
    """One item an example of the longer list; the shorter starts again when it ends."""
    longer = max(len(forget), len(retain))
    pairs = zip(range(longer), cycle(forget), cycle(retain))
    return [Item.of(forget=[one], retain=[other]) for _, one, other in pairs]


def segments(text: str, words: int) -> list[str]:
    """A text cut behind punctuation and after `words` words at most; joined they are the text."""
    cut: list[str] = []
    held = ""
    for piece in re.findall(r"\S+\s*", text):
        held += piece
        if re.search(r"[.,;:!?]\W*$", piece) or len(held.split()) >= words:
            cut.append(held)
            held = ""
    return [*cut, held] if held else cut


def detoxified(
    contexts: Sequence[Context],
    words: int,
    toxic: Callable[[list[str]], Sequence[bool]],
    rewrite: Callable[[list[str]], Sequence[str]],
) -> dict[str, str]:
    """{context id: its text with every toxic segment written anew} (CMD, step one).

    toxic: which of these segments are. rewrite: for each text so far, other words to go on with.
    Segment by segment from the left, all contexts together, so that a segment is judged and
    rewritten behind what was already cleaned.
    """
    cut = {context.id: segments(context.text, words) for context in contexts}
    clean = dict.fromkeys(cut, "")
    for place in range(max(map(len, cut.values()), default=0)):
        here = {name: parts[place] for name, parts in cut.items() if place < len(parts)}
        marks = dict(zip(here, toxic(list(here.values())), strict=True))
        # Nothing stands before a first segment that other words could go on from.
        bad = [name for name in here if marks[name] and clean[name].strip()]
        for name in here:
            if name not in bad:
                clean[name] += here[name]
        rewritten = rewrite([clean[name].rstrip() for name in bad]) if bad else []
        for name, text in zip(bad, rewritten, strict=True):
            clean[name] = f"{clean[name].rstrip()} {text.strip()} "
    return {name: text.rstrip() for name, text in clean.items()}
