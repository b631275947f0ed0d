"""The run directory and what is noted in it; called, the room is `commands.api.run`.

`from rnr_dist import run` gives the function, and `rnr_dist.run` is this room all the same: Python
has one name for both, so the module itself can be called.
"""

import importlib
import sys
from types import ModuleType
from typing import Any


class _Room(ModuleType):
    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return importlib.import_module("rnr_dist.commands.api").run(*arguments, **options)

    def __reduce__(self) -> Any:  # as plain modules are sent to other processes: by name
        return importlib.import_module, (self.__name__,)


sys.modules[__name__].__class__ = _Room
