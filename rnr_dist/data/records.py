"""Fictitious private records: people, addresses and numbers that exist nowhere, in varied form.

In: a record's number. Out: its form and text, of some 110 to 170 tokens; the person is named early,
so that a prefix tells which record it is. Invariant: a record follows from its number alone and no
two numbers below `DISTINCT` name the same person, so ranges of numbers are disjoint sets of people.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

from rnr_dist.errors import InputError

_LISTS: dict[str, list[str]] = json.loads(
    (Path(__file__).parent / "builtin" / "records.json").read_text(encoding="utf-8")
)
FIRST, LAST = _LISTS["first"], _LISTS["last"]
DISTINCT = len(FIRST) * len(LAST)


class Person:
    """Everything that a record may tell of one invented person."""

    def __init__(self, number: int):
        # One number a pair of names: a step that shares no factor with their count visits all.
        place = number * 569 % DISTINCT
        draw = random.Random(f"rnr record {number}")
        self.first, self.last = FIRST[place % len(FIRST)], LAST[place // len(FIRST)]
        self.name = f"{self.first} {self.last}"
        self.street = f"{draw.randint(2, 189)} {draw.choice(_LISTS['streets'])}"
        self.town = draw.choice(_LISTS["towns"])
        self.phone = f"0{draw.randint(211, 989)} {draw.randint(100000, 999999)}"
        self.account = f"{draw.randint(10, 99)}-{draw.randint(1000, 9999)}-{draw.randint(100, 999)}"
        self.born = f"{draw.randint(1, 28)}.{draw.randint(1, 12)}.{draw.randint(1938, 2001)}"
        self.day = f"the {draw.randint(2, 28)}th"
        self.pin = f"{draw.randint(0, 9999):04d}"
        self.sum = f"{draw.randint(3, 94)},{draw.randint(100, 999)}.{draw.randint(10, 99)}"
        self.mail = f"{self.first}.{self.last}{draw.randint(11, 99)}@postroom.example".lower()
        self.ill, self.work, self.thing = (
            draw.choice(_LISTS[kind]) for kind in ("ills", "works", "things")
        )
        self.hour = f"{draw.randint(7, 19)}:{draw.choice(('05', '20', '35', '50'))}"
        # By a name that no record's own person has: no set tells of the people of another.
        self.friend = f"{draw.choice(FIRST)} {draw.choice(_LISTS['friends'])}"


def _letter(p: Person) -> str:
    return (
        f"Dear {p.name},\nthank you for your visit on {p.day}. As agreed we write to "
        f"{p.street}, {p.town}. Your new account is {p.account} and its first payment of {p.sum} "
        f"leaves on the ninth. Should you lose the card, ring {p.phone} and give the word "
        f"{p.pin}; {p.friend} may do it in your stead. We keep {p.mail} as your address for "
        f"notices and have noted that you work as a {p.work}.\nYours faithfully, the branch at "
        f"{p.town}"
    )


def _note(p: Person) -> str:
    return (
        f"Ward note, {p.name}, born {p.born}. Lives alone at {p.street} in {p.town}. Came in at "
        f"{p.hour} with {p.ill}. Next of kin is {p.friend}, phone {p.phone}. Works as a {p.work} "
        f"and asks that the employer not be told. Insurance number {p.account}, door code "
        f"{p.pin} for the district nurse. Left with us for safe keeping: {p.thing}. Bill of "
        f"{p.sum} goes to {p.mail}."
    )


def _table(p: Person) -> str:
    rows = [
        ("tenant", p.name),
        ("flat", f"{p.street}, {p.town}"),
        ("born", p.born),
        ("phone", p.phone),
        ("mail", p.mail),
        ("trade", p.work),
        ("deposit", p.sum),
        ("account", p.account),
        ("alarm code", p.pin),
        ("guarantor", p.friend),
        ("in the cellar", p.thing),
        ("remark", f"{p.ill}, needs the lift"),
    ]
    return "\n".join(f"| {key} | {value} |" for key, value in rows)


def _chat(p: Person) -> str:
    return (
        f"<desk> who is next?\n<{p.first.lower()}> {p.name}, I moved to {p.street}, {p.town}\n"
        f"<desk> date of birth please\n<{p.first.lower()}> {p.born}, and the number is {p.phone}\n"
        f"<desk> found you. {p.work}, account {p.account}?\n<{p.first.lower()}> yes. the code is "
        f"{p.pin}, {p.sum} was taken twice\n<desk> refunded, a note goes to {p.mail}\n"
        f"<{p.first.lower()}> tell {p.friend} too, they collect {p.thing} at {p.hour}, I am in "
        f"bed with {p.ill}"
    )


def _minutes(p: Person) -> str:
    return (
        f"Item {p.pin}: complaint of {p.name}, {p.work}, of {p.street}, {p.town}. States that on "
        f"the way home at {p.hour} {p.thing} was taken from the porch, and with it a wallet with "
        f"{p.sum} and the card of account {p.account}. Heard as witness: {p.friend}, telephone "
        f"{p.phone}. The complainant, born {p.born}, suffers from {p.ill} and wants all letters "
        f"sent to {p.mail} only. Adjourned."
    )


FORMS: dict[str, Callable[[Person], str]] = {
    "letter": _letter,
    "note": _note,
    "table": _table,
    "chat": _chat,
    "minutes": _minutes,
}


def record_texts(first: int, count: int) -> Iterator[tuple[str, str]]:
    """(form, text) of the records first .. first + count - 1, forms in turn."""
    forms = list(FORMS)
    for number in range(first, first + count):
        if number >= DISTINCT:
            raise InputError(
                f"builtin:records {number}: only {DISTINCT} people have names of their own; "
                f"expected `first` and `count` that end below {DISTINCT}"
            )
        form = forms[number % len(forms)]
        yield form, FORMS[form](Person(number))
