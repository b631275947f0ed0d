"""Plain values as JSON, on the way between the judge and the candidate.

In: values of built-in types. Out: JSON, and from it values of exactly these types. Invariant: no
object of the candidate ever reaches the judge, so none of its methods is called there.
"""

from __future__ import annotations

import json
import sys
from _collections_abc import Iterator
from collections import deque
from itertools import islice

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

DEEPEST = 60  # levels of containers
LONGEST_RUN = 100_000  # items that an iterator may give
# What is its own JSON. bool comes before int, of which it is a kind.
SCALARS = (bool, int, float, str)
# Kinds, in the order in which a value of a subclass is told as one of them.
SEQUENCES = {
    "list": list,
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "deque": deque,
}
# Classes told by their text, by the module that has them: only a program that imported it has one.
WRITTEN = {"Fraction": "fractions", "Decimal": "decimal"}


class NoPlainValue(ValueError):
    """A value that is of no built-in type, too deep or too long."""


def written(value: Any) -> str:
    """A value as JSON of one line. Raises NoPlainValue."""
    try:
        return json.dumps(tree(value), separators=(",", ":"))
    except (RecursionError, ValueError) as error:
        raise NoPlainValue(str(error)) from None


def tree(value: Any, depth: int = 0) -> Any:
    """A value as lists and scalars: [kind, content] for whatever JSON has no form of its own."""
    if depth > DEEPEST:
        raise NoPlainValue(f"more than {DEEPEST} levels deep")
    if value is None:
        return None
    for kind in SCALARS:
        if isinstance(value, kind):
            return kind(value)
    for name, of in SEQUENCES.items():
        if isinstance(value, of):
            return [name, [tree(item, depth + 1) for item in value]]
    if isinstance(value, dict):
        return ["dict", [[tree(k, depth + 1), tree(v, depth + 1)] for k, v in value.items()]]
    if isinstance(value, range):
        return ["range", [value.start, value.stop, value.step]]
    if isinstance(value, bytes):
        return ["bytes", bytes(value).decode("latin-1")]
    if isinstance(value, complex):
        return ["complex", repr(complex(value))]
    for name, module in WRITTEN.items():
        if module in sys.modules and isinstance(value, getattr(sys.modules[module], name)):
            return [name, str(value)]
    if isinstance(value, Iterator):
        items = [tree(item, depth + 1) for item in islice(value, LONGEST_RUN + 1)]
        if len(items) > LONGEST_RUN:
            raise NoPlainValue(f"an iterator of more than {LONGEST_RUN} items")
        return ["iterator", items]
    raise NoPlainValue(f"a {type(value).__name__}")


def read(text: str) -> Any:
    """The value that `written` wrote. Raises ValueError for anything else."""
    try:
        return _grown(json.loads(text))
    except (RecursionError, TypeError, KeyError, IndexError, ArithmeticError) as error:
        raise ValueError(f"no plain value: {type(error).__name__}") from None


def _grown(found: Any) -> Any:
    if found is None or isinstance(found, SCALARS):
        return found
    kind, content = found
    if kind in SEQUENCES:
        return SEQUENCES[kind](_grown(item) for item in content)
    if kind == "dict":
        return {_grown(key): _grown(item) for key, item in content}
    if kind == "range":
        return range(*content)
    if kind == "iterator":
        return iter([_grown(item) for item in content])
    if kind == "bytes":
        return bytes(content, "latin-1")
    if kind == "complex":
        return complex(content)
    return getattr(__import__(WRITTEN[kind]), kind)(content)
