"""What may be written down or shown of values that can hold secrets.

In: a text, or a config's plain values. Out: the same without passwords, tokens and keys. Invariant:
what is left out of an address is not needed to know which server or database is meant; values
without a secret come back equal.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from rnr_dist.errors import InputError

HIDDEN = "***"
_asked_for: set[str] = set()  # secrets of this process, whatever their variables are called
LEAST_LENGTH = 8  # characters; shorter values of the environment are ordinary words too
# User and password of an address. A database's password may hold what ends the host elsewhere.
_DATABASE_USER = re.compile(r"((?:postgres(?:ql)?|mysql|mariadb|mssql|oracle)(?:\+\w+)?://)\S*@")
_USER = re.compile(r"(\w://)[^\s/?#]*@")
_QUERY = re.compile(r"(\w://[^\s?#]*)[?#][^\s'\"<>)\]]*")
# What libraries call the rest of an address: `url: /runs?token=...`.
_REST = re.compile(r"(/[^\s?#]*)\?[^\s'\"<>)\]]*=[^\s'\"<>)\]]*")
_ADDRESS = re.compile(r"[A-Za-z][\w+.-]*://\S*")
# Names of variables and of keys whose values are secrets.
_SECRET_NAME = re.compile(
    r"(?:^|_)(?:token|secret|password|passwd|credentials?|(?:access|api|secret|private)_?key)"
    r"(?:_id)?$",
    re.IGNORECASE,
)


def without_secrets(text: str) -> str:
    """`text` with no user, password or query in an address, and no secret of the environment."""
    for value in _of_environment():
        text = text.replace(value, HIDDEN)
    for pattern in (_DATABASE_USER, _USER, _QUERY, _REST):
        text = pattern.sub(r"\1", text)
    return text


def to_be_kept(content: Any, key: str = "") -> Any:
    """A config's plain values as they are written to files and told to MLflow.

    Only what is an address as a whole is cut: prompts may speak of addresses.
    """
    if isinstance(content, Mapping):
        return {name: to_be_kept(value, str(name)) for name, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [to_be_kept(value, key) for value in content]
    if not isinstance(content, str) or not content:
        return content
    if _SECRET_NAME.search(key):
        return HIDDEN
    if _ADDRESS.fullmatch(content):
        return without_secrets(content)
    for value in _of_environment():
        content = content.replace(value, HIDDEN)
    return content


def typed(*words: object) -> str:
    """A command as a shell takes it, without secrets in an address, or as a key's value."""
    return shlex.join(_without_value(without_secrets(str(word))) for word in words)


def _without_value(word: str) -> str:
    """`KEY=VALUE` without a value that its key calls a secret."""
    key, equals, value = word.partition("=")
    return f"{key}{equals}{to_be_kept(value, key.rpartition('.')[2])}" if equals else word


def secret_of(variable: str, whose: str) -> str:
    """The secret that an environment variable holds, which is hidden from now on.

    Raises InputError, which `whose` begins, where the variable is not set.
    """
    found = os.environ.get(variable, "")
    if not found:
        raise InputError(
            f"{whose}: found no key in the environment variable {variable}; expected the server's"
        )
    _asked_for.add(found)
    return found


def _of_environment() -> Iterator[str]:
    """Values of this process's variables that are called a token, a password or a key; the longest
    first, since one may lie within another. A path to a file is none."""
    found = {
        value
        for name, value in os.environ.items()
        if len(value) >= LEAST_LENGTH and value[0] != "/" and _SECRET_NAME.search(name)
    }
    found |= {value for value in _asked_for if len(value) >= LEAST_LENGTH}
    yield from sorted(found, key=len, reverse=True)
