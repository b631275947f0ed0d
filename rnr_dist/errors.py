"""The errors that are told as one sentence: bad input, and what a run has lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

SHOWN = 80  # characters of a value that a sentence quotes


class InputError(ValueError):
    """Bad input. The command line prints its sentence alone and exits with code 2."""


class LostError(RuntimeError):
    """A run works with something that is gone for good: a node, a process, all its generators.

    The command line prints the sentence and how to go on, and exits with code 1.
    """


Told = TypeVar("Told", bound=Exception)


def told_in(error: BaseException, kind: type[Told]) -> Told | None:
    """The error of that kind that one of Ray, Tune or Ray Train was made of; None where it was not.

    They wrap what was raised in a process of theirs, once or several times, and the wrap, which is
    of that kind too, has a trace of pages for a text.
    """
    if isinstance(error, kind) and not hasattr(error, "cause"):
        return error
    wrapped = [getattr(error, name, None) for name in ("cause", "_base_exc", "controller_failure")]
    for inner in (*wrapped, *getattr(error, "worker_failures", {}).values()):
        if isinstance(inner, BaseException) and (found := told_in(inner, kind)):
            return found
    return None


def shown(value: object, form: Callable[[object], str] = repr) -> str:
    """A value as a sentence quotes it: its beginning, where it is long."""
    try:
        text = form(value)
    except ValueError:  # Python prints no integer of more than 4,300 digits
        return "a number of thousands of digits"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
