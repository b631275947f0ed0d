"""What the parts of the config's schema share."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

# All numbers are finite, and neither `true`, "5" nor 1e9 is a whole one. The upper bounds are far
# above what anyone needs, and below what ends for want of memory.
MOST, FARTHEST = 1_000_000, 1e9
LONGEST_NAME = 150  # bytes; folders take 255, of which a time and a temporary ending need some
# Of a row in a table or a variant, which is part of a file's name.
PLAIN_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,99}", re.ASCII)
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Fraction = Annotated[Number, Field(ge=0, le=1)]
Positive = Annotated[Number, Field(gt=0, le=FARTHEST)]
Weight = Annotated[Number, Field(ge=0, le=FARTHEST)]
Count = Annotated[int, Field(ge=1, le=MOST, strict=True)]
Whole = Annotated[int, Field(ge=0, le=MOST, strict=True)]
Many = Annotated[int, Field(ge=1, le=10**12, strict=True)]  # of data
Seed = Annotated[int, Field(ge=0, lt=2**31, strict=True)]
Flag = Annotated[bool, Field(strict=True)]
Diversity = Literal["weighted", "union", "union_raw"]


class Section(BaseModel):
    """Base of every part of the config, a task's own too: unknown keys are errors, numbers finite,
    values never change."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


class Sampling(Section):
    """How continuations are drawn."""

    n: Count = 25
    """Continuations of each context."""
    max_tokens: Count = 20
    """New tokens of each continuation."""
    temperature: Weight = 1.0
    """0 is greedy."""
    top_p: Annotated[Number, Field(gt=0, le=1)] = 0.9
    """Nucleus mass; 1 switches it off."""

    @model_validator(mode="after")
    def _greedy_is_one(self) -> Sampling:
        if self.temperature == 0 and self.n > 1:
            raise ValueError(f"temperature 0 gives the same text {self.n} times; n must be 1")
        return self


def merged(content: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """`content` with the overrides in it; another objective takes its whole section's place."""
    if {"name"} <= content.keys() & overrides.keys() and content["name"] != overrides["name"]:
        return dict(overrides)
    result = dict(content)
    for key, value in overrides.items():
        inner = result.get(key)
        if isinstance(inner, Mapping) and isinstance(value, Mapping):
            value = merged(inner, value)
        result[key] = value
    return result


def above_defaults(section: type[Section], kind: type[Section], content: Any) -> Any:
    """Plain values of `section` in which one of `kind` may name single keys.

    The other keys stay as the section's own default has them, not as `kind`'s.
    """
    if not isinstance(content, Mapping):
        return content
    given = dict(content)
    for name, value in content.items():
        field = section.model_fields.get(name)
        if field and isinstance(field.default, kind) and isinstance(value, Mapping):
            given[name] = merged(field.default.model_dump(), value)
    return given


def nested_overrides(dotted: Mapping[str, Any]) -> dict[str, Any]:
    """`{"objective.kl_weight": 1}` as `{"objective": {"kl_weight": 1}}`; plain keys as they are."""
    content: dict[str, Any] = {}
    for key, value in dotted.items():
        *sections, last = key.split(".")
        inner = content
        for section in sections:
            inner = inner.setdefault(section, {})
            if not isinstance(inner, dict):
                raise ValueError(f"found {key} beside {section}, which is a value; expected one")
        inner[last] = value
    return content


def finite(values: dict[str, Any]) -> dict[str, Any]:
    """Plain values themselves. Raises ValueError, which names its key, for inf or nan in them."""
    for key, value in values.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{key} is {value}; expected finite numbers")
        inner = dict(enumerate(value)) if isinstance(value, list) else value
        if isinstance(inner, dict):
            finite({f"{key}.{name}": one for name, one in inner.items()})
    return values


def file_name(text: str) -> str:
    """`text` itself. Raises ValueError where it cannot be the name of a file or folder, with a time
    behind it, on every machine."""
    if not text or text[0] in ". " or text[-1] in ". " or not text.isprintable():
        raise ValueError("expected a name that neither begins nor ends with a dot or a space")
    if set(text) & set("/\\"):
        raise ValueError("expected a name without slashes: it becomes part of a folder's")
    if len(text.encode()) > LONGEST_NAME:
        raise ValueError(f"expected a name of at most {LONGEST_NAME} bytes: it becomes a folder's")
    return text


PlainValues = Annotated[dict[str, Any], AfterValidator(finite)]
FileName = Annotated[str, AfterValidator(file_name)]
