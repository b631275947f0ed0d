"""From a YAML file to a `Config`.

In: a path and `--set` overrides. Out: a validated, frozen `Config`. Invariant: every key is
checked before anything costs time; a bad one raises InputError with one sentence that names it.
"""

from __future__ import annotations

import copy
import difflib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from rnr_dist.config.base import Section
from rnr_dist.config.cluster import Cluster
from rnr_dist.config.named import NESTED
from rnr_dist.config.schema import Config
from rnr_dist.config.shipped import STUDIES, config_path
from rnr_dist.config.strict_yaml import read_override, read_yaml
from rnr_dist.config.study import Study
from rnr_dist.errors import InputError, shown

Kind = TypeVar("Kind", bound=Section)

# Keys of earlier versions, and where they are now.
MOVED = {
    "retain.detoxified_per_context": "retain.mild_per_context",
    "baselines": "methods",
    "evaluate.choices": "task.choices",
    "evaluate.dialogues": "task.dialogues",
    "evaluate.sampled_n": "task.sampled_n",
}


def load_config(
    path: str | Path,
    overrides: Iterable[str] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Config:
    """Read, override (`a.b=value`, values as `strict_yaml` reads them) and validate a config file.

    path: or the name of a config that ships (`shipped`). settings: plain values by dotted keys, set
    before the overrides. `${VARIABLE}` in a value of the file is replaced from the environment.
    Raises InputError.
    """
    path = config_path(path)
    content = with_settings(_mapping(path), settings or {})
    return validate(with_overrides(content, overrides or []), str(path))


def with_settings(content: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of plain values in which those of `settings` stand at their dotted keys."""
    changed = copy.deepcopy(dict(content))
    for key, value in settings.items():
        _set(changed, key, value, key)
    return changed


def with_overrides(content: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """A copy of plain values in which those of the overrides, `a.b=value`, stand. Raises
    InputError."""
    changed = copy.deepcopy(dict(content))
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator:
            raise InputError(f"--set {override}: expected KEY=VALUE")
        place = f"--set {override}"
        _set(changed, key, read_override(text, place), place)
    return changed


def load_study(path: str | Path) -> Study:
    """Read and validate the file of a study, or one that ships by its name. Raises InputError."""
    return _load(config_path(path, STUDIES), Study)


def load_cluster(path: str | Path) -> Cluster:
    """Read and validate the description of a cluster. Raises InputError."""
    return _load(Path(path), Cluster)


def _load(path: Path, schema: type[Kind]) -> Kind:
    content = _mapping(path)
    try:
        return schema.model_validate(content)
    except ValidationError as error:
        raise InputError(f"{path}: {_sentence(error, schema)}") from error


def _mapping(path: Path) -> dict[str, Any]:
    """The keys of a YAML file."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no UTF-8 text"
        raise InputError(f"{path}: cannot be read ({reason}); expected a YAML config") from error
    content = read_yaml(text, str(path), os.environ)
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


def _set(content: dict[str, Any], key: str, value: Any, place: str) -> None:
    """Put a value at a dotted key; sections on the way are made."""
    *parents, last = key.split(".")
    for parent in parents:
        content = content.setdefault(parent, {})
        if not isinstance(content, dict):
            raise InputError(f"{place}: {parent} is a value, not a section")
    content[last] = copy.deepcopy(value)  # what is set further down in it changes it


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
    found, key = problem.error, ".".join(shown(part, _one_line) for part in problem.path)
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
    return f"{key}: found {shown(found['input'])}, {told}"


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
