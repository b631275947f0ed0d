"""The one error that is the user's to mend: a sentence that names place, found and expected."""

from __future__ import annotations

from collections.abc import Callable

SHOWN = 80  # characters of a value that a sentence quotes


class InputError(ValueError):
    """Bad input. The command line prints its sentence alone and exits with code 2."""


def shown(value: object, form: Callable[[object], str] = repr) -> str:
    """A value as a sentence quotes it: its beginning, where it is long."""
    try:
        text = form(value)
    except ValueError:  # Python prints no integer of more than 4,300 digits
        return "a number of thousands of digits"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
