"""Where text becomes tokens, for all rooms: a text that begins, or one that goes on.

In: a tokenizer and a text. Out: token ids. Invariant: what a tokenizer puts before a text (a begin
token) stands before each text that begins, and what it puts behind one (an end token) nowhere: to
whatever is read or asked here something follows, and a text's end is not given away.
"""

from __future__ import annotations

from typing import Any

PROBE = "a"


def encoded(tokenizer: Any, text: str) -> tuple[int, ...]:
    """A text that begins: a prompt, a passage, a sequence."""
    return (*begin_tokens(tokenizer), *encoded_on(tokenizer, text))


def encoded_on(tokenizer: Any, text: str) -> tuple[int, ...]:
    """A text that goes on where another ended: a choice, a reference, the rest of a sequence."""
    return tuple(tokenizer.encode(text, add_special_tokens=False))


def begin_tokens(tokenizer: Any) -> tuple[int, ...]:
    """What the tokenizer puts before every text; mostly one token or none."""
    bare, whole = encoded_on(tokenizer, PROBE), tuple(tokenizer.encode(PROBE))
    places = range(len(whole) - len(bare) + 1)
    return whole[: next(at for at in places if whole[at : at + len(bare)] == bare)]
