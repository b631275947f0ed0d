"""Sections whose schema follows from the `name` in them: a task's settings, an objective's.

In: plain values with a `name`. Out: the section of that name. Invariant: errors inside keep their
place: `file` reads them from the error's context.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_core import PydanticCustomError

from rnr_dist.config.base import Section
from rnr_dist.errors import InputError

NESTED = "nested_section"  # the type of an error that holds the errors of a section in it


def validated(schema: type[Section], content: Any, place: tuple[str, ...] = ()) -> Section:
    """`content` as a section of `schema`; errors are nested in one that pydantic passes on.

    place: keys of the section, where pydantic does not know them.
    """
    try:
        return schema.model_validate(content)
    except ValidationError as error:
        context = {"errors": error.errors(), "schema": schema, "place": place}
        raise PydanticCustomError(NESTED, "{schema}", context) from error


def by_name(find: Callable[[str], type[Section]], default: str) -> Callable[[Any], Any]:
    """A validator of sections whose `name` (left out: `default`) leads to their schema."""

    def validate(content: Any) -> Any:
        if not isinstance(content, Mapping):
            return content
        try:
            schema = find(str(content.get("name", default)))
        except InputError as error:
            raise PydanticCustomError("name", "{told}", {"told": str(error)}) from error
        return validated(schema, content)

    return validate
