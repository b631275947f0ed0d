"""Sentences about invented people, organisations, places, products and days, with what each names.

In: a sentence's number. Out: its text and its entities by type. Invariant: a sentence follows from
its number alone, every name in it is marked, and no five words that are no name stand in a row, so
that sentences of one form are no copies of each other.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from string import Formatter

TYPES = ("person", "organization", "location", "date", "product")
# A slot's first letter says its type (Y: a month or a year); a digit tells two of one type apart.
KINDS = {**dict(zip("POLDT", TYPES, strict=True)), "Y": "date"}

# Parts of names by kind, forms of names, clauses and how two are joined. No more than four fixed
# words of a clause stand in a row.
_LISTS: dict[str, list[str]] = json.loads(
    (Path(__file__).parent / "builtin" / "invented.json").read_text(encoding="utf-8")
)


def invented_texts(first: int, count: int) -> Iterator[tuple[str, Mapping[str, tuple[str, ...]]]]:
    """(text, its entities by type) of the sentences first .. first + count - 1."""
    for number in range(first, first + count):
        yield _sentence(random.Random(f"rnr sentence {number}"))


def _sentence(draw: random.Random) -> tuple[str, Mapping[str, tuple[str, ...]]]:
    join = draw.choice(_LISTS["joins"])
    clauses = draw.sample(_LISTS["clauses"], 2)
    held: dict[str, list[str]] = {name: [] for name in TYPES}
    told = [_filled(clause, draw, held) for clause in clauses[: 1 + ("{two}" in join)]]
    text = join.format(**dict(zip(("one", "two"), told, strict=False)))
    return text[0].upper() + text[1:], {name: tuple(names) for name, names in held.items()}


def _filled(clause: str, draw: random.Random, held: dict[str, list[str]]) -> str:
    """A clause with names in its slots, each of which joins `held`."""
    names = {}
    for _, slot, _, _ in Formatter().parse(clause):
        if slot:
            kind = KINDS[slot[0]]
            while (name := _name(slot[0], draw)) in held[kind]:
                pass
            names[slot] = name
            held[kind].append(name)
    return clause.format(**names)


def _name(slot: str, draw: random.Random) -> str:
    def one(kind: str) -> str:
        return draw.choice(_LISTS[kind])

    family, place = one("family") + one("family_ends"), one("place") + one("place_ends")
    if slot == "P":
        return f"{one('fore')}{one('fore_ends')} {family}"
    if slot == "O":
        return one("bodies").format(F=family, L=place)
    if slot == "L":
        return one("regions").format(L=place)
    if slot == "T":
        return one("goods").format(G=one("brand"), N=draw.randint(2, 990))
    day, month, year = draw.randint(1, 28), one("months"), draw.randint(1921, 2029)
    return one("days" if slot == "D" else "spans").format(D=day, M=month, Y=year)
