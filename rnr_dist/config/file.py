"""From a YAML file to a `Config`.

In: a path and `--set` overrides. Out: a validated, frozen `Config`. Invariant: every key is
checked before anything costs time; a bad one raises InputError with one sentence that names it.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from rnr_dist.config.base import Section
from rnr_dist.config.named import NESTED
from rnr_dist.config.schema import Config
from rnr_dist.config.study import Study
from rnr_dist.errors import InputError

# Keys of earlier versions, and where they are now.
MOVED = {
    "retain.detoxified_per_context": "retain.mild_per_context",
    "baselines": "methods",
    "evaluate.choices": "task.choices",
    "evaluate.dialogues": "task.dialogues",
    "evaluate.sampled_n": "task.sampled_n",
}


class _Loader(yaml.SafeLoader):
    """YAML 1.2's numbers: PyYAML reads 1e-4 as a text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), [*"-+0123456789"]
)


def load_config(path: str | Path, overrides: list[str] | None = None) -> Config:
    """Read, override (`a.b=value`, YAML values) and validate a config file.

    `${VARIABLE}` in it is replaced from the environment. Raises InputError.
    """
    content = _mapping(Path(path))
    for override in overrides or []:
        _apply(content, override)
    return validate(content, str(path))


def load_study(path: str | Path) -> Study:
    """Read and validate the file of a study. Raises InputError."""
    content = _mapping(Path(path))
    try:
        return Study.model_validate(content)
    except ValidationError as error:
        raise InputError(f"{path}: {_sentence(error, Study)}") from error


def _mapping(path: Path) -> dict[str, Any]:
    """The keys of a YAML file."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no UTF-8 text"
        raise InputError(f"{path}: cannot be read ({reason}); expected a YAML config") from error
    try:
        content = yaml.load(_expand(text, path), _Loader)
    except yaml.YAMLError as error:
        raise InputError(f"{path}: is no YAML ({_one_line(error)})") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: found {type(content).__name__}, expected a mapping of keys")
    return content


def validate(content: dict[str, Any], origin: str) -> Config:
    """A config from plain values; `origin` (the file) is named in errors."""
    try:
        return Config.model_validate(content)
    except ValidationError as error:
        raise InputError(f"{origin}: {_sentence(error, Config)}") from error
    except InputError as error:  # of a task or a method that cannot be found
        raise InputError(f"{origin}: {error}") from error


def _expand(text: str, path: Path) -> str:
    def value(match: re.Match[str]) -> str:
        name = match.group(1)
        if name not in os.environ:
            raise InputError(
                f"{path}: uses ${{{name}}}, which is not set in the environment; expected a path"
            )
        return os.environ[name]

    return re.sub(r"\$\{(\w+)\}", value, text)


def _apply(content: dict[str, Any], override: str) -> None:
    key, separator, value = override.partition("=")
    if not separator:
        raise InputError(f"--set {override}: expected KEY=VALUE")
    *parents, last = key.split(".")
    for parent in parents:
        content = content.setdefault(parent, {})
        if not isinstance(content, dict):
            raise InputError(f"--set {override}: {parent} is a value, not a section")
    try:
        content[last] = yaml.load(value, _Loader)
    except yaml.YAMLError as error:
        raise InputError(f"--set {override}: {value} is no YAML ({_one_line(error)})") from error


@dataclass(frozen=True)
class _Problem:
    """One of pydantic's errors, with its whole path and the section that its key lies in."""

    path: tuple[Any, ...]
    error: Mapping[str, Any]
    known: tuple[str, ...]


def _sentence(error: ValidationError, schema: type[Section]) -> str:
    """The first problem as `key: found ..., expected ...`, with the nearest known key.

    Unknown keys come first: a misspelt key is also a missing one, and its name says more.
    """
    problems = list(_problems(error.errors(), (), schema))
    unknown = [one for one in problems if one.error["type"] == "extra_forbidden"]
    problem = (unknown or problems)[0]
    found, key = problem.error, ".".join(str(part) for part in problem.path)
    if found["type"] == "extra_forbidden":
        if key in MOVED:
            return f"unknown key {key}; it is called {MOVED[key]} now"
        near = difflib.get_close_matches(str(problem.path[-1]), problem.known, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        return f"unknown key {key}{hint}"
    if found["type"] == "missing":
        return f"{key} is missing"
    told = _one_line(found["msg"]).removeprefix("Value error, ")
    if found["type"] in ("value_error", "name") and isinstance(found["input"], Mapping):
        # A rule over several keys: its sentence names them, the whole section would bury it.
        return f"{key}: {told}".removeprefix(": ")
    return f"{key}: found {found['input']!r}, {told}"


def _problems(
    errors: Iterable[Mapping[str, Any]], above: tuple[Any, ...], schema: type[Section]
) -> Iterator[_Problem]:
    """The errors, those inside of sections by name too."""
    for error in errors:
        path = (*above, *error["loc"])
        if error["type"] == NESTED:
            inner = error["ctx"]
            yield from _problems(inner["errors"], (*path, *inner["place"]), inner["schema"])
        else:
            yield _Problem(path, error, tuple(_known_keys(error["loc"], schema)))


def _known_keys(location: tuple[Any, ...], schema: type[Section]) -> list[str]:
    """The keys of the section that `location` (a path to an unknown key) lies in."""
    section = schema
    for part in location[:-1]:
        if part in section.model_fields:
            annotation = section.model_fields[part].annotation
            inner = [
                kind
                for kind in [annotation, *getattr(annotation, "__args__", ())]
                if isinstance(kind, type) and issubclass(kind, Section)
            ]
            section = inner[0] if inner else section
    return list(section.model_fields)


def _one_line(error: Any) -> str:
    return " ".join(str(error).split())
