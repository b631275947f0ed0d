"""Frozen dataclasses as JSON values and back, and paths that move with their run directory.

In: dataclasses, also nested, in lists, tuples and mappings. Out: JSON values, and the same values
from them. Invariant: a value comes back equal, NaN and infinity too; what lies in a run directory
is written relative to it, so a run that was moved or copied reads its own files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, overload

from pydantic import ConfigDict, TypeAdapter, ValidationError

from rnr_dist.errors import InputError
from rnr_dist.run.earlier import found_from
from rnr_dist.types import Adapter, ModelRef

INSIDE = "./"  # begins each path that is relative to the run directory
MOST_SHOWN = 60  # characters of a wrong value that a sentence shows

_ANYTHING = TypeAdapter[Any](Any, config=ConfigDict(ser_json_inf_nan="constants"))

Kind = TypeVar("Kind")
Located = Adapter | ModelRef


def to_plain(value: Any) -> Any:
    """`value` in dictionaries, lists, strings and numbers; a dataclass goes by its fields."""
    return _ANYTHING.dump_python(value, mode="json", fallback=_numpy)


def _numpy(value: Any) -> Any:
    """NumPy's arrays and scalars; pydantic asks for what it does not know itself."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__}: no JSON value")


@overload
def from_plain(kind: type[Kind], content: Any, place: str = ...) -> Kind: ...
@overload
def from_plain(kind: Any, content: Any, place: str = ...) -> Any: ...
def from_plain(kind: Any, content: Any, place: str = "") -> Any:
    """The `kind` that `to_plain` gave `content` for; `kind` may also be `dict[str, Limits]` or so.

    What `content` lacks takes its default, and what `kind` does not know is left out. Raises
    InputError that names `place`, the key, what was found there and what was expected.
    """
    try:
        return _adapter(kind).validate_python(content)
    except ValidationError as error:
        raise InputError(f"{place}: {_first(error)}" if place else _first(error)) from None


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _first(error: ValidationError) -> str:
    """The first thing that is wrong, in one sentence."""
    wrong = error.errors(include_url=False)[0]
    key = ".".join(map(str, wrong["loc"])) or "the whole value"
    if wrong["type"] == "missing":
        return f"found no `{key}`; expected one"
    shown = repr(wrong["input"])
    if len(shown) > MOST_SHOWN:
        shown = f"{shown[:MOST_SHOWN]}..."
    told = wrong["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    return f"`{key}`: found {shown}; expected {told}"


def run_of(path: Path) -> Path | None:
    """The run directory that `path` lies in: its nearest parent with a config.json."""
    parents = path.absolute().parents
    return next((parent for parent in parents if (parent / "config.json").is_file()), None)


def relative(value: Any, run: Path) -> Any:
    """`value`, to be written, with each path below `run` relative to it."""

    def moved(path: str) -> str:
        inside = path.startswith("/") and Path(path).is_relative_to(run)
        return f"{INSIDE}{Path(path).relative_to(run)}" if inside else path

    return _relocated(value, lambda one: _with_path(one, moved(_path(one))))


def absolute(value: Any, run: Path | None, base: ModelRef | None, place: Path) -> Any:
    """`value`, read from the file `place` in `run`, with all its paths absolute.

    base: the run's base model where it lies now; a model of the same checkpoint gets its folder.
    Raises InputError for a relative path outside any run directory, and as `found_from` does.
    """

    def found(one: Located) -> Located:
        path = _path(one)
        if path.startswith(INSIDE):
            if run is None:
                raise InputError(
                    f"{place}: found the path {path}, relative to a run directory; expected a file "
                    "below one (a folder with config.json)"
                )
            if ".." in Path(path).parts:
                raise InputError(
                    f"{place}: found the path {path}, which leaves the run directory; expected one "
                    "inside it"
                )
            return _with_path(one, str(found_from(place, run, path)))
        if base and isinstance(one, ModelRef) and one.checkpoint_digest == base.checkpoint_digest:
            return _with_path(one, base.checkpoint)
        return one

    return _relocated(value, found)


def _path(one: Located) -> str:
    return one.checkpoint if isinstance(one, ModelRef) else one.path


def _with_path(one: Located, path: str) -> Located:
    if isinstance(one, ModelRef):
        return replace(one, checkpoint=path)
    return replace(one, path=path)


def _relocated(value: Any, change: Callable[[Located], Located]) -> Any:
    """`value` with `change` made to every adapter and model reference in it."""
    if isinstance(value, Mapping):
        return {key: _relocated(item, change) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_relocated(item, change) for item in value)
    if not is_dataclass(value) or isinstance(value, type):
        return value
    parts = {field.name: getattr(value, field.name) for field in fields(value)}
    changed = replace(value, **{name: _relocated(part, change) for name, part in parts.items()})
    return change(changed) if isinstance(changed, (Adapter, ModelRef)) else changed
