"""The forms in which a problem is put to a model, and the program in what it answers.

In: a problem and a form; a context and a response. Out: a context; a program. Pure. Invariant: what
the model is given of a program stands before what it wrote, so a program is whole or the model's
fault.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from rnr_dist.data.programs import Problem
from rnr_dist.types import Context, Message, digest

FENCE = re.compile(r"^[ \t]*(?:```|~~~)[ \t]*([\w+-]*)[^\n]*\n", re.M)
FENCE_ENDS = re.compile(r"^[ \t]*(?:```|~~~)", re.M)
PYTHON = ("", "python", "py", "python3", "python2")
# A line that can begin a program; what comes before the first is prose.
BEGINS = re.compile(r"^(?:def|class|import|from|@|async def)\b|^[A-Za-z_]\w*\s*=[^=]")
SHOWN_TESTS = 3


@dataclass(frozen=True)
class Form:
    """text: what is asked, or how the program begins. chat: asked as a user, by the model's chat
    template; otherwise the model goes on from the text, which begins a program."""

    text: Callable[[Problem], str]
    chat: bool = False


def _asked(problem: Problem) -> str:
    return (
        f"Write a Python function {problem.name}({problem.arguments}). {problem.text} "
        "Answer with the code only."
    )


def _with_tests(problem: Problem) -> str:
    tests = "\n".join(problem.tests[:SHOWN_TESTS])
    return (
        f"You are an expert Python programmer, and here is your task: {problem.text} Your code "
        f"should pass these tests:\n\n{tests}\n"
    )


def _head(problem: Problem) -> str:
    return f"{problem.stub}def {problem.name}({problem.arguments}):\n"


FORMS: dict[str, Form] = {
    "chat": Form(_asked, chat=True),
    # MBPP's own words, which need the tests for the function's name.
    "tests": Form(_with_tests, chat=True),
    "return": Form(lambda one: f"{_head(one)}    # {_line(one.text)}\n    return"),
    # Not up to a line's end: small models write a fence there and stop.
    "stub": Form(lambda one: f'{_head(one)}    """{one.text}"""\n   '),
    "lambda": Form(
        lambda one: f"{one.stub}# {_line(one.text)}\n{one.name} = lambda {one.arguments}:"
    ),
    "task": Form(lambda one: f"Task: {_line(one.text)}\nPython code:\n\n{_head(one)}   "),
}


def _line(text: str) -> str:
    return " ".join(text.split())


def context_of(problem: Problem, form: str, group: str) -> Context:
    """The problem in that form."""
    told = FORMS[form]
    text = told.text(problem)
    messages = (Message("user", text),) if told.chat else ()
    return Context(digest([problem.id, form]), text, problem.split, group, messages=messages)


def begun(context: str, problem: Problem) -> str:
    """How the program begins that the context ends with; empty where it ends with none."""
    starts = [
        match.start()
        for match in re.finditer(
            rf"^(?:def {re.escape(problem.name)}\b|{re.escape(problem.name)} = lambda)",
            context,
            re.M,
        )
    ]
    own = context[starts[-1] :] if starts else ""
    # A definition that the context closes again, as in a fence of a question, is no beginning.
    return "" if FENCE_ENDS.search(own) else own


def program_of(context: str, response: str, problem: Problem) -> str:
    """The program that a response gives: what the context began and the model went on with, or the
    code in its answer."""
    before = begun(context, problem)
    if before:
        return f"{problem.stub}{before}{_continued(before, response)}"
    return f"{problem.stub}{_in_answer(response, problem.name)}"


def _continued(before: str, response: str) -> str:
    """The part of a continuation that still belongs to what was begun: up to the first line that
    stands at the margin, of a lambda its first line."""
    lines = response.split("\n")
    if before.rpartition("\n")[2].partition(" = lambda")[1]:
        return lines[0] + "\n"
    kept = [lines[0]]
    for line in lines[1:]:
        if line.strip() and not line[0].isspace():
            break
        kept.append(line)
    return "\n".join(kept).rstrip() + "\n"


def _in_answer(response: str, name: str) -> str:
    """Of the fenced blocks that hold Python the first that defines `name`, else the first; without
    a fence the lines from the first that begins a program to the last that can belong to it."""
    blocks = _blocks(response)
    if blocks:
        defining = [block for block in blocks if re.search(rf"\b{re.escape(name)}\b", block)]
        return (defining or blocks)[0]
    lines = response.split("\n")
    first = next((at for at, line in enumerate(lines) if BEGINS.match(line)), None)
    if first is None:
        return response
    kept: list[str] = []
    for line in lines[first:]:
        if (
            line.strip()
            and not line[0].isspace()
            and not BEGINS.match(line)
            and line[0] not in "#)]}"
        ):
            break
        kept.append(line)
    return "\n".join(kept).rstrip() + "\n"


def _blocks(response: str) -> list[str]:
    """What stands between fences, the end of the last of which may be missing."""
    found, at = [], 0
    while opening := FENCE.search(response, at):
        ending = FENCE_ENDS.search(response, opening.end())
        block = response[opening.end() : ending.start() if ending else len(response)]
        if opening[1].lower() in PYTHON and block.strip():
            found.append(block.rstrip() + "\n")
        if not ending:
            break
        at = ending.end()
    return found
