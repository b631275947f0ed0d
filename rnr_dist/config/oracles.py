"""Which oracle a config takes, and its own settings where it has some.

In: a name, or a section with `name`. Out: the section of that oracle. Invariant: the settings are
those that the oracle's class declares; an unknown key is an error, as everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, SerializeAsAny, ValidationError

from rnr_dist.config.base import Section
from rnr_dist.config.named import by_name
from rnr_dist.config.registry import oracle_class
from rnr_dist.errors import InputError, shown


class OracleSettings(Section):
    """What the settings of every oracle extend."""

    name: str
    """A name of `score.oracles.ORACLES`, or `package.module:Class` for one of your own."""

    def __str__(self) -> str:
        return self.name


Named = str | OracleSettings | Mapping[str, Any]


def oracle_schema(name: str) -> type[OracleSettings]:
    """The settings of an oracle. Raises InputError."""
    if not name:
        return OracleSettings  # which misses it
    schema: type[OracleSettings] = getattr(oracle_class(name), "Settings", OracleSettings)
    return schema


# A name stays a name, so that configs of earlier versions are what they were.
OracleChoice = Annotated[
    str | SerializeAsAny[OracleSettings], BeforeValidator(by_name(oracle_schema, ""))
]


def settings_of(named: Named) -> OracleSettings:
    """The settings of an oracle that is named by code. Raises InputError."""
    if isinstance(named, OracleSettings):
        return named
    content = {"name": named} if isinstance(named, str) else dict(named)
    name = str(content.get("name", ""))
    try:
        return oracle_schema(name).model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        told = first["msg"].removeprefix("Value error, ")
        found = "" if first["type"] == "missing" else f"found {shown(first['input'])}, "
        raise InputError(f"oracle {name}: {f'{key}: ' if key else ''}{found}{told}") from None
