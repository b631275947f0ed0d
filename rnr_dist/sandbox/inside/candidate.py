"""The candidate's process: it runs the program and answers the judge's calls.

In: the program, then calls, a line each. Out: a line each: a value or what was raised. Invariant:
the tests never come here, so a program can't read what it shall answer.
"""

from __future__ import annotations

import sys

from . import lines, values

READY = "guarded"  # the first line, before the program is there

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def serve(pipe: lines.Lines) -> None:
    """Run the program, then answer calls until the judge has no more."""
    pipe.write(READY)
    program = values.read(pipe.read())
    module = type(sys)("candidate")  # not __main__: what a guarded main does is not asked
    sys.modules["candidate"], namespace = module, module.__dict__
    try:
        code = compile(program, "<program>", "exec")
    except Exception as error:  # also for what is too deep, or holds half a character
        pipe.write(values.written({"unparsed": f"{type(error).__name__}: {error}"}))
        return
    try:
        exec(code, namespace)
    except BaseException as error:
        pipe.write(told(error))
        return
    pipe.write(values.written({"value": None}))
    while True:
        try:
            call = values.read(pipe.read())
        except lines.Ended:
            return
        pipe.write(_answer(namespace, call))


def _answer(namespace: dict[str, Any], call: dict[str, Any]) -> str:
    try:
        if call["name"] not in namespace:
            raise NameError(f"name {call['name']!r} is not defined")
        found = namespace[call["name"]](*call["args"], **call["kwargs"])
        try:
            return values.written({"value": found})
        except values.NoPlainValue as error:
            return values.written({"unplain": str(error)})
    except BaseException as error:
        return told(error)


def told(error: BaseException) -> str:
    """What was raised: the first name among its classes that Python itself has, and its text."""
    names = [kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "builtins"]
    try:
        text = str(error)[:200]
    except BaseException:
        text = ""
    return values.written({"raised": [names[0], f"{type(error).__name__}: {text}"]})
