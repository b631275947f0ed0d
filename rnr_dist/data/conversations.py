"""Conversations in rows: the turns that a model is asked with, and the answer that came next.

In: a row with `messages`, a list of `{role, content}`. Out: turns that end with the user's, and the
assistant's answer. Invariant: what is no such conversation is one InputError that names the file,
the row and the turn.
"""

from __future__ import annotations

from collections.abc import Sequence

from rnr_dist.data.rows import FileRow, field_of, string_of, text_of, value_of
from rnr_dist.errors import InputError, shown
from rnr_dist.types import Message

ROLES = ("system", "user", "assistant")
MESSAGES, REFERENCE = "messages", "reference"


def conversation_of(row: FileRow) -> tuple[tuple[Message, ...], str | None]:
    """The turns up to a user's last one, and the assistant's answer to it if it stands behind."""
    turns = _turns(row, MESSAGES)
    answer = turns.pop().content if turns[-1].role == "assistant" else None
    if not turns or turns[-1].role != "user":
        found = turns[-1].role if turns else "nobody"
        raise InputError(
            f"{row.place}: in `{row.key(MESSAGES)}` {found} speaks before the answer, expected the "
            "user"
        )
    return tuple(turns), answer


def answer_of(row: FileRow) -> str | None:
    """The row's `reference`, if any: a text, or a list of the one turn in which it is said."""
    if not isinstance(value_of(row, REFERENCE), list):
        return string_of(row, REFERENCE)
    turns = _turns(row, REFERENCE)
    if [turn.role for turn in turns] != ["assistant"]:
        raise InputError(
            f"{row.place}: `{row.key(REFERENCE)}` has turns of "
            f"{', '.join(turn.role for turn in turns)}, expected one of the assistant"
        )
    return turns[0].content


def spoken(turns: Sequence[Message]) -> str:
    """Turns as one text, a line each: what identity and split follow from, whatever the model."""
    return "\n".join(f"{turn.role}: {turn.content}" for turn in turns)


def _turns(row: FileRow, name: str) -> list[Message]:
    """The turns in a field, one at least."""
    value, key = field_of(row, name), row.key(name)
    if not isinstance(value, list) or not value:
        raise InputError(
            f"{row.place}: `{key}` is {shown(value)}, expected a list of turns, each with `role` "
            "and `content`"
        )
    turns = []
    for number, fields in enumerate(value, start=1):
        turn = FileRow(f"{row.place}, `{key}`, turn {number}", fields)
        role = text_of(turn, "role")
        if role not in ROLES:
            raise InputError(f"{turn.place}: `role` is {shown(role)}, expected {', '.join(ROLES)}")
        turns.append(Message(role, text_of(turn, "content")))
    return turns
