"""YAML as plain values, read strictly: nothing that was typed is taken for something else.

In: a text, what it is called in errors, the environment. Out: mappings, lists, texts, numbers,
true, false and null, no two of which share anything. Invariant: what YAML 1.1 guesses at (`yes`,
`010`, `1:30`, dates) stays a text; a variable's value stands in one value and never adds a key.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from rnr_dist.errors import InputError

TAG = "tag:yaml.org,2002:"
# A variable's braces would end a list or a section in one line, so that letters of no script stand
# in for them until the document is parsed.
OPEN, CLOSE = "\uf8f0", "\uf8f1"
VARIABLE = re.compile(rf"{OPEN}(\w+){CLOSE}")
# Far above any config; below what an alias of aliases would take memory for.
MOST_VALUES, DEEPEST = 10_000, 40
# A value that begins so is YAML in an override too; any other stands as it was typed.
FLOW = ("[", "{", '"', "'")


class _Loader(yaml.SafeLoader):
    """YAML 1.2's plain values, each number in one form: PyYAML reads 1.1's, and 1e-4 as a text."""

    # Typeshed knows no such attribute of a class.
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012


for _kind, _form, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    # Longer ones are no number of a config, and Python does not print the longest.
    ("int", r"[-+]?(0|[1-9]\d{0,17})", "-+0123456789"),
    ("float", r"[-+]?(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][-+]?\d+)?", "-+.0123456789"),
    ("float", r"[-+]?\.(inf|Inf|INF)", "-+."),
    ("float", r"\.(nan|NaN|NAN)", "."),
    ("merge", r"<<", "<"),
):
    _Loader.add_implicit_resolver(f"{TAG}{_kind}", re.compile(rf"(?:{_form})\Z", re.A), [*_first])


def read_yaml(text: str, place: str, variables: Mapping[str, str] | None = None) -> Any:
    """The one document of `text`; `${NAME}` in a value is replaced from `variables`, if given.

    Raises InputError, which begins with `place`: for what is no YAML, a key that stands twice, a
    tag, an alias that leads to itself or to too much, and a character that no file can hold.
    """
    try:
        if variables is not None:
            text = re.sub(r"\$\{(\w+)\}", rf"{OPEN}\1{CLOSE}", text)
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _Reader(loader, place, variables).check(node)
        return _unshared(loader.construct_document(node))
    except RecursionError:
        raise InputError(f"{place}: is nested deeply; expected {DEEPEST} levels at most") from None
    except InputError:
        raise
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # PyYAML lets Python's own through
        told = _written(" ".join(str(error).split()))
        raise InputError(f"{place}: is no YAML ({told})") from error


def read_override(text: str, place: str) -> Any:
    """The value of an override: YAML where it begins as a list, a section or a quoted text, else
    one value as it stands, `#` and `: ` included. Raises InputError as `read_yaml` does."""
    text = text.strip()
    if text.startswith(FLOW):
        return read_yaml(text, place)
    loader = _Loader("")
    node = ScalarNode(loader.resolve(ScalarNode, text, (True, False)), text)
    _require_storable(text, place)
    return loader.construct_document(node)


class _Reader:
    """Goes through a document's nodes once, before anything is made of them."""

    def __init__(self, loader: _Loader, place: str, variables: Mapping[str, str] | None):
        self._loader, self._place, self._variables = loader, place, variables
        self._known: dict[int, tuple[int, int]] = {}
        self._open: set[int] = set()

    def check(self, node: Node) -> tuple[int, int]:
        """Values and levels under a node, aliases written out; variables are filled in.

        Raises InputError.
        """
        if id(node) in self._open:
            raise self._refusal(node, "found an alias that leads to itself, expected an end")
        if id(node) not in self._known:
            self._open.add(id(node))
            below = [self.check(child) for child in self._children(node)]
            self._open.discard(id(node))
            values = 1 + sum(values for values, _ in below)
            levels = 1 + max((levels for _, levels in below), default=0)
            if values > MOST_VALUES or levels > DEEPEST:
                raise self._refusal(
                    node,
                    f"found more than {MOST_VALUES} values or {DEEPEST} levels, aliases written "
                    "out; expected a config of some hundred values",
                )
            self._known[id(node)] = values, levels
        return self._known[id(node)]

    def _children(self, node: Node) -> list[Node]:
        if isinstance(node, ScalarNode):
            self._plain(node, node.value)
            self._fill(node)
            return []
        if node.tag not in (f"{TAG}map", f"{TAG}seq"):
            raise self._refusal(node, f"found the tag {node.tag}, expected a value without one")
        if isinstance(node, SequenceNode):
            return list(node.value)
        assert isinstance(node, MappingNode)
        known: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, ScalarNode):
                raise self._refusal(key, f"found a {key.id} as a key, expected a name")
            self._plain(key, key.value)
            key.value = _written(key.value)
            _require_storable(key.value, self._place)
            if key.value in known:
                raise self._refusal(
                    key,
                    f"found the key {key.value!r} a second time (before in line "
                    f"{known[key.value]}), expected each once",
                )
            known[key.value] = _line(key)
        return [value for _, value in node.value]

    def _plain(self, node: ScalarNode, value: str) -> None:
        """Raises InputError for a tag that is not the value's own."""
        quoted = node.style is not None
        if node.tag != self._loader.resolve(ScalarNode, value, (not quoted, quoted)):
            raise self._refusal(node, f"found the tag {node.tag}, expected a value without one")

    def _fill(self, node: ScalarNode) -> None:
        """Variables in place of their names; an unquoted value that then is a number is one."""
        if self._variables is not None and VARIABLE.search(node.value):
            node.value = VARIABLE.sub(lambda name: self._variable(node, name.group(1)), node.value)
            plain = node.style is None and node.value != ""
            node.tag = self._loader.resolve(ScalarNode, node.value, (plain, not plain))
        _require_storable(node.value, f"{self._place}, line {_line(node)}")

    def _variable(self, node: Node, name: str) -> str:
        assert self._variables is not None
        if name not in self._variables:
            raise self._refusal(
                node, f"uses ${{{name}}}, which is not set in the environment; expected a value"
            )
        return self._variables[name]

    def _refusal(self, node: Node, told: str) -> InputError:
        return InputError(f"{self._place}, line {_line(node)}: {told}")


def _written(text: str) -> str:
    """`text` with the names of variables as they were typed."""
    return text.replace(OPEN, "${").replace(CLOSE, "}")


def _line(node: Node) -> int:
    return int(node.start_mark.line) + 1


def _require_storable(text: str, place: str) -> None:
    """Raises InputError for a text that no path and no UTF-8 file can hold."""
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise InputError(f"{place}: found {text[:40]!r}, expected no NUL and whole characters")


def _unshared(value: Any) -> Any:
    """A copy in which what aliases share stands for itself, so that one can be overridden alone."""
    if isinstance(value, dict):
        return {key: _unshared(inner) for key, inner in value.items()}
    return [_unshared(inner) for inner in value] if isinstance(value, list) else value
