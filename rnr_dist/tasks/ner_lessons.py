"""What the model is taught before it forgets: questions on other texts, with their true answers.

In: marked texts. Out: (question, answer) rows. Invariant: at most `empty_share` of them is an empty
list, and which those are follows from their texts alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rnr_dist.data.marked import Marked
from rnr_dist.data.splits import normalised, position
from rnr_dist.tasks.ner_answers import Questions
from rnr_dist.tasks.ner_texts import Placed
from rnr_dist.types import Context, Split, digest

Lesson = tuple[Context, tuple[str, ...]]


@dataclass(frozen=True)
class Lessons:
    """Questions on texts that nothing else is asked about."""

    questions: Questions
    texts: Sequence[Marked]
    empty_share: float

    def rows(self, most: int | None, left_out: Sequence[str] = ()) -> list[Lesson]:
        """The rows, in order of their hash, without the types that are left out.

        Which are drawn is decided before types are left out: the control sees the same rows of the
        other types.
        """
        placed = [Placed(digest(normalised(one.text)), Split.TRAIN, one) for one in self.texts]
        rows = [
            (self.questions.context(one, name), one.marked.entities[name])
            for one in placed
            for name in self.questions.types
            if name in one.marked.entities
        ]
        rows.sort(key=lambda row: position(row[0].id))
        named = sum(bool(gold) for _, gold in rows)
        room = room_for_empty(named, self.empty_share, len(rows) - named)
        places = [place for place, (_, gold) in enumerate(rows) if not gold]
        dropped = set(places[room:])
        kept = [row for place, row in enumerate(rows) if place not in dropped][:most]
        return [row for row in kept if row[0].group not in left_out]


def room_for_empty(named: int, share: float, most: int) -> int:
    """How many empty lists may stand beside `named` others, so that they are at most `share`."""
    return most if share >= 1 else min(most, int(share * named / (1 - share)))
