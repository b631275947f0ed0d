"""Programming problems of all formats: what a function shall do, its name, its tests, a solution.

In: a `ProblemSource`. Out: `Problem`s in order of their hash. Invariant: every problem has tests
that Python can read; ids are unique, and no two splits hold near-copies of a text.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from rnr_dist.config.coding import ProblemSource
from rnr_dist.data.files import files_of
from rnr_dist.data.rows import FileRow, field_of, file_rows, string_of, text_of, value_of
from rnr_dist.data.splits import drop_cross_split_duplicates, normalised, position, split_of
from rnr_dist.errors import InputError, shown
from rnr_dist.sandbox.verdicts import Check
from rnr_dist.types import Passage, Split, digest

LONGEST = 4 * 2**20  # characters of a test or a solution: Python's parser takes 500 times as much


@dataclass(frozen=True)
class Problem:
    """One problem. label: what its file calls it. text: what the function `name` shall do, with
    these arguments. setup: code before each test. stub: code that a solution may count on, as
    HumanEval's imports and helpers before the function."""

    label: str
    text: str
    name: str
    arguments: str
    tests: tuple[str, ...]
    solution: str
    setup: str = ""
    stub: str = ""
    split: Split = Split.TRAIN

    @property
    def id(self) -> str:
        return digest([normalised(self.text), self.name])

    def check(self, program: str) -> Check:
        """What a program is checked for that shall solve it."""
        return Check(program, self.tests, self.setup, self.name)


def load_programs(source: ProblemSource) -> list[Problem]:
    """The problems of a source, each in its split. Raises InputError.

    Near-copies across splits, `first`, `last` and `limit` are dealt with; failing solutions are not
    known here.
    """
    found: dict[str, Problem] = {}
    read = READERS[source.format]
    for file in files_of(source.source):
        for number, row in enumerate(file_rows(file)):
            number = _number(row, number)
            if source.first <= number <= source.last:
                problem = _whole(read(row), row)
                found.setdefault(problem.id, problem)
    if not found:
        raise InputError(
            f"{source.source}: found no problem numbered {source.first} to {source.last}, "
            "expected some"
        )
    placed = [replace(one, split=split_of(one.text, source.splits)) for one in found.values()]
    placed.sort(key=lambda one: (position(one.text), one.name))
    return _limited(without_copies(placed), source)


def without_copies(problems: list[Problem]) -> list[Problem]:
    """The problems without those whose text has a near-copy in another split."""
    texts = [Passage(one.id, one.text, one.split, "") for one in problems]
    [kept] = drop_cross_split_duplicates(texts)
    ids = {one.id for one in kept}
    return [one for one in problems if one.id in ids]


def _limited(problems: list[Problem], source: ProblemSource) -> list[Problem]:
    kept: list[Problem] = []
    for split, share in source.splits.items():
        members = [one for one in problems if one.split is split]
        if share > 0 and not members:
            raise InputError(
                f"{source.source}: splits.{split} has share {share:g} but got none of "
                f"{len(problems)} problems; expected more problems or no such split"
            )
        kept += members[: source.limit.get(split)]
    return kept


def _number(row: FileRow, default: int) -> int:
    """A problem's number: the digits that end its `task_id`."""
    told = re.search(r"\d+$", str(value_of(row, "task_id") or ""))
    return int(told[0]) if told else default


def _whole(problem: Problem, row: FileRow) -> Problem:
    """The problem itself. Raises InputError where its tests or its name are none."""
    if not any(test.strip() for test in problem.tests):
        raise InputError(f"{row.place}: problem {problem.label} has no tests, expected some")
    if not problem.name.isidentifier():
        raise InputError(
            f"{row.place}: problem {problem.label} names the function {shown(problem.name)}, "
            "expected a name of Python"
        )
    for test in problem.tests:
        _require_short(test, row, problem.label)
        try:
            ast.parse(f"{problem.setup}\n{test}")
        except (SyntaxError, ValueError, RecursionError) as error:
            raise InputError(
                f"{row.place}: problem {problem.label} has the test {shown(test)}, which Python "
                f"cannot read ({error}); expected assertions"
            ) from None
    return problem


def _plain(row: FileRow) -> Problem:
    name = text_of(row, "name")
    return Problem(
        label=name,
        text=text_of(row, "text").strip(),
        name=name,
        arguments=string_of(row, "arguments") or "",
        tests=_strings(row, "tests"),
        solution=string_of(row, "solution") or "",
        setup=string_of(row, "setup") or "",
    )


def _mbpp(row: FileRow) -> Problem:
    code, tests = text_of(row, "code"), _strings(row, "test_list")
    label = f"task_id {field_of(row, 'task_id')}"
    name, arguments = _signature(code, tests, row, label)
    # The sanitised file and MBPP's own differ in what they call the text.
    text = text_of(row, "text" if value_of(row, "text") else "prompt").strip()
    setup = string_of(row, "test_setup_code") or "\n".join(_strings(row, "test_imports", False))
    return Problem(label, text, name, arguments, tests, code, setup)


def _human_eval(row: FileRow) -> Problem:
    prompt, name = text_of(row, "prompt"), text_of(row, "entry_point")
    test = f"{text_of(row, 'test')}\ncheck({name})"
    solution = prompt + text_of(row, "canonical_solution")
    label = str(value_of(row, "task_id") or name)
    arguments, text = _told(solution, name, row, label)
    return Problem(label, text, name, arguments, (test,), solution, stub=_before(prompt, name))


def _eval_plus(row: FileRow) -> Problem:
    prompt, name = text_of(row, "prompt"), text_of(row, "entry_point")
    label = str(value_of(row, "task_id") or name)
    solution = text_of(row, "canonical_solution")
    if f"def {name}" not in solution:
        solution = prompt + solution
    arguments, text = _told(solution, name, row, label)
    text = text or prompt.strip().strip('"').partition("\nassert")[0].strip()
    slack = float(value_of(row, "atol") or 0)
    tests = tuple(
        _plus_test(name, json.dumps(inputs), slack)
        for key in ("base_input", "plus_input")
        if (inputs := value_of(row, key))
    )
    setup = PLUS_SETUP.format(solution=solution, name=name)
    return Problem(label, text, name, arguments, tests, solution, setup, _before(prompt, name))


# EvalPlus tells inputs, and its own solution tells what is right for them.
PLUS_SETUP = """import json, math
space = {{}}
exec({solution!r}, space)
right = space[{name!r}]
def alike(one, other, slack):
    if slack and isinstance(other, float):
        return isinstance(one, (int, float)) and math.isclose(one, other, abs_tol=slack)
    if slack and isinstance(other, (list, tuple)):
        pairs = len(one) == len(other) and zip(one, other)
        return pairs and all(alike(a, b, slack) for a, b in pairs)
    return one == other
"""


def _plus_test(name: str, inputs: str, slack: float) -> str:
    return (
        f"for given in json.loads({inputs!r}):\n"
        f"    expected = right(*json.loads(json.dumps(given)))\n"
        f"    assert alike({name}(*given), expected, {slack!r})"
    )


READERS: dict[str, Callable[[FileRow], Problem]] = {
    "plain": _plain,
    "mbpp": _mbpp,
    "human_eval": _human_eval,
    "eval_plus": _eval_plus,
}


def _strings(row: FileRow, name: str, needed: bool = True) -> tuple[str, ...]:
    value = field_of(row, name) if needed else value_of(row, name)
    if not isinstance(value, list | tuple) or not all(isinstance(one, str) for one in value):
        if value is None and not needed:
            return ()
        raise InputError(f"{row.place}: `{name}` is {shown(value)}, expected a list of strings")
    return tuple(value)


def _signature(code: str, tests: tuple[str, ...], row: FileRow, label: str) -> tuple[str, str]:
    """Name and arguments of the solution's function that the tests call first."""
    functions = {one.name: one for one in _functions(code, row, label)}
    for called in re.findall(r"(\w+)\s*\(", "\n".join(tests)):
        if called in functions:
            return called, ast.unparse(functions[called].args)
    raise InputError(
        f"{row.place}: problem {label} has tests that call no function of its `code`; expected "
        f"one of {', '.join(functions) or 'some'}"
    )


def _told(solution: str, name: str, row: FileRow, label: str) -> tuple[str, str]:
    """Arguments of the function of that name, and its docstring."""
    for function in _functions(solution, row, label):
        if function.name == name:
            return ast.unparse(function.args), (ast.get_docstring(function) or "").strip()
    raise InputError(f"{row.place}: problem {label} defines no function {name}; expected one")


def _require_short(code: str, row: FileRow, label: str) -> None:
    if len(code) > LONGEST:
        raise InputError(
            f"{row.place}: problem {label} has {len(code)} characters of code in one piece; "
            f"expected at most {LONGEST}"
        )


def _functions(code: str, row: FileRow, label: str) -> Iterator[ast.FunctionDef]:
    _require_short(code, row, label)
    try:
        parsed: Any = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError) as error:
        raise InputError(
            f"{row.place}: problem {label} has a solution that Python cannot read ({error}); "
            "expected a function"
        ) from None
    return (node for node in parsed.body if isinstance(node, ast.FunctionDef))


def _before(prompt: str, name: str) -> str:
    """What stands in a prompt before the function itself."""
    return prompt.partition(f"def {name}")[0] if f"def {name}" in prompt else ""
