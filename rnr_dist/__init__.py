"""Make a language model forget a target, and prove it. The Python interface is in docs/api.md.

Nothing is imported before it is asked for: `import rnr_dist` costs nothing that Python itself does
not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rnr_dist.commands.api import (
        Config,
        InputError,
        LostError,
        Summary,
        check,
        config_schema,
        export,
        load_config,
        run,
        study,
        summary,
        verify,
    )

__all__ = [
    "Config",
    "InputError",
    "LostError",
    "Summary",
    "check",
    "config_schema",
    "export",
    "load_config",
    "run",
    "study",
    "summary",
    "verify",
]


def __getattr__(name: str) -> Any:
    import importlib

    if name == "__version__":
        from importlib.metadata import version

        return version("rnr-dist")
    if name == "run":  # the room, which can be called: one object, whichever was asked for first
        return importlib.import_module("rnr_dist.run")
    if name in __all__:
        return getattr(importlib.import_module("rnr_dist.commands.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__, "__version__"])
