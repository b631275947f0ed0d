"""The names that a config may use for tasks and methods, and where each is found.

In: a name, or `package.module:Class` for one of a user's own. Out: its class. Invariant: nothing is
imported before a config names it; a name that leads nowhere is one InputError.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rnr_dist.errors import InputError

# These lie above this one, and are asked for their names by name.
ROOM_OF_TASKS, ROOM_OF_ORACLES = "rnr_dist.tasks", "rnr_dist.score.oracles"
ANY_MODEL = "MODEL"  # ends the name of an oracle that stands for any model behind the colon
# Adding a method is its file and one line here.
METHODS = {
    "release": "rnr_dist.methods.release:RevealAndRelease",
    "icu": "rnr_dist.methods.icu:Icu",
    "kumpr": "rnr_dist.methods.kumpr:Kumpr",
    "kl": "rnr_dist.methods.kl:Kl",
    "dpo": "rnr_dist.methods.dpo:Dpo",
    "llmu": "rnr_dist.methods.llmu:Llmu",
    "pem_external": "rnr_dist.methods.pem_external:PemExternal",
    "ext_sub": "rnr_dist.methods.ext_sub:ExtSub",
    "npo": "rnr_dist.methods.npo:Npo",
    "simnpo": "rnr_dist.methods.simnpo:Simnpo",
    "rmu": "rnr_dist.methods.rmu:Rmu",
    "cmd": "rnr_dist.methods.cmd:Cmd",
}

# The parts of `methods.method.Method`.
METHOD_PARTS = ("name", "needs", "Objective", "adapters", "refined", "settings", "items", "model")


def shipped_tasks() -> list[str]:
    """The names of the tasks that ship."""
    return [*importlib.import_module(ROOM_OF_TASKS).TASKS]


def task_class(name: str) -> Any:
    """The class of a task (`tasks.task.Task`); "" is the default one. Raises InputError."""
    room = importlib.import_module(ROOM_OF_TASKS)
    return find_class("task", name or room.DEFAULT_TASK, room.TASKS)


def oracle_class(name: str) -> Any:
    """The class of an oracle (`score.oracles.Oracle`). Raises InputError."""
    known = importlib.import_module(ROOM_OF_ORACLES).ORACLES
    return find_class("oracle", registered_oracle(name, known) or name, known)


def registered_oracle(name: str, known: Mapping[str, str]) -> str:
    """Under which name `known` has an oracle; "" where it is one of a user's own, or none."""
    kinds = {key.removesuffix(ANY_MODEL): key for key in known if key.endswith(ANY_MODEL)}
    kind = name[: name.find(":") + 1]
    return name if name in known else kinds.get(kind, "")


def method_class(name: str) -> Any:
    """The class of a method (`methods.method.Method`). Raises InputError."""
    found = find_class("method", name, METHODS)
    missing = [part for part in METHOD_PARTS if not hasattr(found, part)]
    if missing:
        raise InputError(
            f"method {name}: lacks {', '.join(missing)}; expected a methods.method.Method"
        )
    return found


def find_class(kind: str, name: str, known: Mapping[str, str]) -> Any:
    """What `known`, or a dotted name, says is called `name`. Raises InputError."""
    module_name, _, attribute = known.get(name, name).partition(":")
    if not attribute:
        raise InputError(
            f"{kind} {name}: unknown; expected one of {', '.join(known)}, or package.module:Class"
        )
    if name not in known and (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)  # a user's own module may lie beside the config
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever a user's own module raises when it is imported
        raise InputError(
            f"{kind} {name}: {module_name} cannot be imported ({type(error).__name__}: {error}); "
            f"expected a module that holds the class {attribute}"
        ) from error
    if not hasattr(module, attribute):
        raise InputError(f"{kind} {name}: {module_name} holds no {attribute}; expected a class")
    return getattr(module, attribute)
