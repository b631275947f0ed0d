"""What the parts of the config's schema share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Weight = Annotated[float, Field(ge=0)]
Diversity = Literal["weighted", "union", "union_raw"]


class Section(BaseModel):
    """Base of every part of the config: unknown keys are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Sampling(Section):
    """How continuations are drawn."""

    n: Count = 25
    """Continuations of each context."""
    max_tokens: Count = 20
    """New tokens of each continuation."""
    temperature: Annotated[float, Field(ge=0)] = 1.0
    """0 is greedy."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.9
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
        inner[last] = value
    return content
