"""What an answer says: a list of entities, or nothing that can be read.

In: the text of an answer. Out: the entities in it, each once, or None. Invariant: what is no list
of strings is None and never an empty list, however it is compared.
"""

from __future__ import annotations

import ast
import json
import re
import string
import warnings
from collections.abc import Callable
from typing import Any, Literal

Parser = Literal["strict", "universal_ner"]
LONGEST_ANSWER = 20_000  # characters; what is longer is no list that anyone asked for
ARTICLES = re.compile(r"\b(a|an|the)\b")
NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def parsed(answer: str, parser: Parser = "strict") -> tuple[str, ...] | None:
    """The entities of an answer in order, as they are compared; None where it cannot be read.

    strict: the whole answer is one list of strings, as JSON or as a Python literal; white space
    around the list and within a name does not count. universal_ner: the answer begins with a list
    in JSON that ends with the first closing bracket; what follows does not count.
    """
    items = _strict(answer) if parser == "strict" else _leading(answer)
    if items is None or not all(isinstance(item, str) for item in items):
        return None
    return tuple(dict.fromkeys(map(NORMALISED[parser], items)))


def spaced(name: str) -> str:
    """A name with single spaces: how `strict` compares it."""
    return " ".join(name.split())


def bare(name: str) -> str:
    """A name in lower case, without punctuation, then without articles: how UniversalNER does."""
    return spaced(ARTICLES.sub(" ", name.lower().translate(NO_PUNCTUATION)))


NORMALISED: dict[Parser, Callable[[str], str]] = {"strict": spaced, "universal_ner": bare}


def _strict(answer: str) -> list[Any] | None:
    text = answer.strip()
    if not (text.startswith("[") and text.endswith("]")) or len(text) > LONGEST_ANSWER:
        return None
    for read in (json.loads, ast.literal_eval):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of escapes that Python does not know
                found = read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        return found if isinstance(found, list) else None
    return None


def _leading(answer: str) -> list[Any] | None:
    found = re.match(r"\[.*?\]", answer.lstrip()[:LONGEST_ANSWER])
    try:
        items: list[Any] | None = json.loads(found.group()) if found else None
    except (ValueError, RecursionError):
        return None
    return items
