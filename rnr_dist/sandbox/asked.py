"""What a test asks for: functions of the program, modules of Python's library.

In: the text of a test. Out: how the judge runs it. Pure. Invariant: a name is asked of the program
only where neither the test nor Python defines it.
"""

from __future__ import annotations

import ast
import builtins
import sys
from functools import lru_cache
from typing import Any

SHOWN = 80  # characters of a test that a verdict quotes


@lru_cache(maxsize=4096)
def asked(setup: str, test: str, function: str = "") -> dict[str, Any]:
    """{source, shown, asks, modules} of a test behind its set-up. Raises SyntaxError.

    function: of the program, which is asked for even where Python has one of that name.
    """
    source = f"{setup}\n{test}"
    nodes = list(ast.walk(ast.parse(source)))
    names = [node for node in nodes if isinstance(node, ast.Name)]
    defined = {node.id for node in names if isinstance(node.ctx, ast.Store)}
    for node in nodes:
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            defined.add(node.name)
        elif isinstance(node, ast.arg):
            defined.add(node.arg)
        elif isinstance(node, ast.alias):
            defined.add((node.asname or node.name).partition(".")[0])
        elif isinstance(node, ast.ExceptHandler) and node.name:
            defined.add(node.name)
    free = {node.id for node in names} - defined - (set(dir(builtins)) - {function})
    owners = {id(node.value) for node in nodes if isinstance(node, ast.Attribute)}
    modules = {node.id for node in names if id(node) in owners} & free & sys.stdlib_module_names
    return {
        "source": source,
        "shown": test.strip()[:SHOWN],
        "asks": sorted(free - modules),
        "modules": sorted(modules),
    }
