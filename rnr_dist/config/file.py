"""From a YAML file to a `Config`.

In: a path and `--set` overrides. Out: a validated, frozen `Config`. Invariant: every key is
checked before anything costs time; a bad one raises InputError with one sentence that names it.
"""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from rnr_dist.config.icu import IcuConfig
from rnr_dist.config.schema import Config, Section
from rnr_dist.errors import InputError


class _Loader(yaml.SafeLoader):
    """YAML 1.2's numbers: PyYAML reads 1e-4 as a text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), [*"-+0123456789"]
)


def load_config(path: str | Path, overrides: list[str] | None = None) -> Config:
    """The config of a run of R&R. Raises InputError, also where it is one of another task."""
    loaded = load_any_config(path, overrides)
    if not isinstance(loaded, Config):
        raise InputError(f"{path}: task.name: found {loaded.task.name}, expected toxicity")
    return loaded


def load_any_config(path: str | Path, overrides: list[str] | None = None) -> Config | IcuConfig:
    """Read, override (`a.b=value`, YAML values) and validate a config file.

    `task.name` says which schema it follows (left out: toxicity). `${VARIABLE}` in it is replaced
    from the environment. Raises InputError.
    """
    path = Path(path)
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
    for override in overrides or []:
        _apply(content, override)
    return validate(content, str(path))


def validate(content: dict[str, Any], origin: str) -> Config | IcuConfig:
    """A config from plain values; `origin` (the file) is named in errors."""
    task = content.get("task")
    name = task.get("name") if isinstance(task, dict) else None
    schema: type[Config] | type[IcuConfig] = IcuConfig if name == "extraction" else Config
    try:
        return schema.model_validate(content)
    except ValidationError as error:
        raise InputError(f"{origin}: {_sentence(error, schema)}") from error


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


def _sentence(error: ValidationError, schema: type[Section]) -> str:
    """The first problem as `key: found ..., expected ...`, with the nearest known key.

    Unknown keys come first: a misspelt key is also a missing one, and its name says more.
    """
    problems = error.errors()
    unknown = [problem for problem in problems if problem["type"] == "extra_forbidden"]
    problem = (unknown or problems)[0]
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        near = difflib.get_close_matches(
            str(problem["loc"][-1]), _known_keys(problem["loc"], schema), 1
        )
        hint = f"; did you mean {near[0]}?" if near else ""
        return f"unknown key {key}{hint}"
    if problem["type"] == "missing":
        return f"{key} is missing"
    if isinstance(problem["input"], dict) and problem["type"] == "value_error":
        # A rule over several keys: its sentence names them, the whole section would bury it.
        return f"{key}: {_one_line(problem['msg']).removeprefix('Value error, ')}".removeprefix(
            ": "
        )
    return f"{key}: found {problem['input']!r}, {_one_line(problem['msg'])}"


def _known_keys(location: tuple[Any, ...], schema: type[Section]) -> list[str]:
    """The keys of the section that `location` (a path to an unknown key) lies in."""
    sections: list[Any] = [schema]
    for part in location[:-1]:
        if isinstance(part, int):
            continue
        if part not in sections[0].model_fields:  # the name that chooses among several sections
            sections = [kind for kind in sections if kind.model_fields["name"].default == part]
            continue
        annotation = sections[0].model_fields[part].annotation
        sections = [
            kind
            for kind in [annotation, *getattr(annotation, "__args__", ())]
            if isinstance(kind, type) and issubclass(kind, Section)
        ] or [schema]
    return list(sections[0].model_fields)


def _one_line(error: Any) -> str:
    return " ".join(str(error).split())
