"""How well a model finds the entities of each type: micro F1, and answers that say nothing.

In: answers and the true entities. Out: values by text of the declared measures. Invariant: an
answer that cannot be read finds nothing and is counted as such, never as an empty list; `order`
fixes the texts' order, so that two models can be paired.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from rnr_dist.data.entity_answers import NORMALISED, Parser, parsed
from rnr_dist.measures.measure import Measure, Role
from rnr_dist.stats import ClusterMean

FOUND = "F1 of the entities that were found"
BY_TYPE = "F1 of each type that stays"
EMPTY, UNREAD = "Answers that are an empty list", "Answers that cannot be read"
FAMILY, KEPT = "entities", "retained"


@dataclass(frozen=True)
class Answer:
    """One answer, or what came of it. text: of which it is, by id. type: that was asked for.

    said: the entities in it, None where it cannot be read. gold: the true ones.
    """

    text: str
    type: str
    said: tuple[str, ...] | None
    gold: tuple[str, ...]

    @classmethod
    def of(
        cls, text: str, type_name: str, answer: str, gold: Sequence[str], parser: Parser
    ) -> Answer:
        true = tuple(dict.fromkeys(map(NORMALISED[parser], gold)))
        return cls(text, type_name, parsed(answer, parser), true)

    @property
    def right(self) -> int:
        return len(set(self.said or ()) & set(self.gold))

    @property
    def either(self) -> int:
        """What was said and what is true, counted together: F1 is 2 right / either."""
        return len(self.said or ()) + len(self.gold)


@dataclass(frozen=True)
class EntityMeasures:
    """The measures of a target type and of the retained ones."""

    target: str
    retained: tuple[str, ...]

    @cached_property
    def f1(self) -> dict[str, Measure]:
        """Of each type; the target's is what the 90 % rule reads."""
        return {
            name: Measure(
                f"{FAMILY}/{name}/f1",
                f"{name} F1",
                "score",
                "lower" if name == self.target else "higher",
                Role.TARGET if name == self.target else Role.INFORMATION,
                name,
                cluster="text",
                style=".3f",
                table=FOUND if name == self.target else BY_TYPE,
            )
            for name in (self.target, *self.retained)
        }

    @cached_property
    def kept(self) -> Measure:
        """Micro F1 over all retained types: the utility."""
        return Measure(
            f"{FAMILY}/{KEPT}/f1",
            "retained F1",
            "score",
            "higher",
            Role.UTILITY,
            KEPT,
            cluster="text",
            style=".3f",
            table=FOUND,
        )

    @cached_property
    def unread(self) -> dict[str, Measure]:
        """Share of answers that are no list. A model that says something else has not forgotten."""
        return {
            name: self._share("unread", UNREAD, name, Role.GUARD)
            for name in (self.target, *self.retained)
        }

    @cached_property
    def empty(self) -> dict[str, Measure]:
        """Share of answers that are an empty list; of retained types a guard, since `[]` to
        everything looks like forgetting."""
        return {
            name: self._share(
                "empty",
                EMPTY,
                name,
                Role.INFORMATION if name == self.target else Role.GUARD,
            )
            for name in (self.target, *self.retained)
        }

    @property
    def declared(self) -> tuple[Measure, ...]:
        shares = [part[name] for name in self.f1 for part in (self.empty, self.unread)]
        return (self.f1[self.target], self.kept, *list(self.f1.values())[1:], *shares)

    def read(
        self, answers: Sequence[Answer], types: Sequence[str], order: Sequence[str]
    ) -> dict[str, ClusterMean]:
        """Values of these types over the texts in `order`; what is measured over the retained types
        together is told where all of them are read."""
        found = {}
        for name in types:
            own = _by_text([answer for answer in answers if answer.type == name], order)
            found[self.f1[name].name] = _f1(self.f1[name], own)
            sizes = [len(one) for one in own]
            for measure, meant in ((self.empty[name], _is_empty), (self.unread[name], _is_unread)):
                counts = (sum(map(meant, one)) for one in own)
                found[measure.name] = measure.of(counts, sizes)
        if set(self.retained) <= set(types):
            kept = [answer for answer in answers if answer.type in self.retained]
            found[self.kept.name] = _f1(self.kept, _by_text(kept, order))
        return found

    def _share(self, name: str, table: str, group: str, role: Role) -> Measure:
        return Measure(
            f"{FAMILY}/{group}/{name}",
            f"{group} {name}",
            "share",
            "lower",
            role,
            group,
            adds="share",
            cluster="text",
            style=".1%",
            table=table,
        )


def _is_empty(answer: Answer) -> bool:
    return answer.said == ()


def _is_unread(answer: Answer) -> bool:
    return answer.said is None


def _f1(measure: Measure, rows: Sequence[Sequence[Answer]]) -> ClusterMean:
    """2 right / (said + true), summed over all answers: micro F1."""
    return measure.of(
        (2 * sum(answer.right for answer in own) for own in rows),
        (sum(answer.either for answer in own) for own in rows),
    )


def _by_text(answers: Sequence[Answer], order: Sequence[str]) -> list[list[Answer]]:
    """The answers of each text that has any, in the given order."""
    held: dict[str, list[Answer]] = {}
    for answer in answers:
        held.setdefault(answer.text, []).append(answer)
    return [held[text] for text in order if text in held]
