"""How the code is kept: words, circles, sizes, and whether the golden figures still come out.

It reads the sources beside it and the history of git; only the golden figures run anything.

    python benchmarks/house.py            the figures; the last line is one JSON object
    python benchmarks/house.py --show     also each place that a figure counts or that is too large
    python benchmarks/house.py --quick    without the golden figures (`same_figures` is null)
"""

from __future__ import annotations

import argparse
import ast
import io
import json
import statistics
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any

import grimp
import numpy as np
from scipy.sparse.csgraph import connected_components

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "rnr_dist"

# Where the words of a task are at home; `config/sources` names the formats of data sets.
TASK_ROOMS = ("tasks", "measures", "methods", "data", "config/sources", "score/oracles")
GROUPS = {"challenging", "ordinary"}
# What stands before the slash of a measure's name.
FAMILIES = (
    *("toxicity/", "judge/", "perplexity/", "output/", "extraction/"),
    *("forget/", "unseen/", "pool/", "problems/"),
)

# --show lists what is above these.
LIMITS = {"most_parameters": 6, "longest_function": 60, "longest_module": 400}

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Place:
    """Something that a figure counts: how much it counts for, and where it stands."""

    value: int
    file: str
    line: int
    name: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line} {self.name} {self.value}"


@dataclass(frozen=True)
class Module:
    """A source file: its path from the root, its text and its syntax tree."""

    path: str
    text: str
    tree: ast.Module

    def place(self, value: int, line: int, name: str) -> Place:
        return Place(value, self.path, line, name)


def read_modules(package: Path) -> list[Module]:
    """All Python files of a package, subpackages included, by path."""
    found = []
    for path in sorted(package.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        found.append(Module(str(path.relative_to(package.parent)), text, ast.parse(text)))
    return found


def in_task_room(module: Module) -> bool:
    inside = module.path.partition("/")[2]
    return any(inside.startswith((f"{room}/", f"{room}.py")) for room in TASK_ROOMS)


def declared_measures(modules: list[Module]) -> set[str]:
    """The names that the task rooms give to `Measure(name, …)` as literals."""
    found = set()
    for module in modules:
        if not in_task_room(module):
            continue
        for node in ast.walk(module.tree):
            match node:
                case ast.Call(func=ast.Name(id="Measure") | ast.Attribute(attr="Measure")):
                    named = [word.value for word in node.keywords if word.arg == "name"]
                    first = [*node.args[:1], *named][:1]
                    found |= {str(arg.value) for arg in first if isinstance(arg, ast.Constant)}
    return found


def task_words(module: Module, measures: set[str]) -> Iterator[Place]:
    """Each name, literal and comment of a module that speaks of one task.

    Names and literals count if they hold `toxic` or are a group's name, literals also if they are
    a measure's name or the head of one; comments and docstrings only if they hold `toxic`.
    """
    for line, name in names(module.tree):
        if "toxic" in name.lower() or name.lower() in GROUPS:
            yield module.place(1, line, name)
    for line, text, prose in texts(module):
        own = text in measures | GROUPS or text.startswith(FAMILIES)
        if "toxic" in text.lower() or (own and not prose):
            above = text[: max(text.lower().find("toxic"), 0)].count("\n")
            spoken = text.splitlines()[above].strip()
            yield module.place(1, line + above, repr(shorten(spoken, 60)))


def names(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, name) of each identifier, parts of imported modules' names included."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name):
                yield node.lineno, name
            case ast.keyword(arg=str(name)):
                yield node.lineno, name
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.lineno, node.name
            case ast.ImportFrom(module=str(name)):
                yield from ((node.lineno, part) for part in name.split("."))
            case ast.alias(name=name, asname=other):
                parts = [*name.split("."), *([other] if other else [])]
                yield from ((node.lineno, part) for part in parts)


def texts(module: Module) -> Iterator[tuple[int, str, bool]]:
    """(line, text, whether it is prose) of each string and comment; docstrings are prose."""
    prose = {
        id(node.value)
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value, id(node) in prose
    for token in tokenize.generate_tokens(io.StringIO(module.text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string, True


def functions(module: Module) -> Iterator[tuple[Function, bool]]:
    """Each function, and whether its first parameter is the instance or the class."""
    for node in ast.walk(module.tree):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, Function):
                marks = {mark.id for mark in child.decorator_list if isinstance(mark, ast.Name)}
                yield child, isinstance(node, ast.ClassDef) and "staticmethod" not in marks


def parameters(function: Function, bound: bool) -> int:
    """How many parameters a caller meets; `*args` and `**kwargs` count one each."""
    given = function.args
    named = len(given.posonlyargs) + len(given.args) + len(given.kwonlyargs)
    return named + (given.vararg is not None) + (given.kwarg is not None) - bound


def import_circles(graph: grimp.ImportGraph) -> list[list[str]]:
    """The sets of neighbours in a package that reach each other by imports, in circles.

    A subpackage counts as one neighbour with all that it holds, a package's `__init__` as a
    neighbour of its modules. Imports for types alone count, and so do those inside functions.
    """
    arrows = [
        (importer, imported)
        for importer in graph.modules
        for imported in graph.find_modules_directly_imported_by(importer)
    ]
    found = []
    for package in sorted(name for name in graph.modules if graph.find_children(name)):
        neighbours = [package, *sorted(graph.find_children(package))]
        number = {
            module: place
            for place, neighbour in enumerate(neighbours)
            for module in {neighbour} | (graph.find_descendants(neighbour) if place else set())
        }
        reach = np.zeros((len(neighbours), len(neighbours)), dtype=bool)
        for importer, imported in arrows:
            if importer in number and imported in number:
                reach[number[importer], number[imported]] = True
        count, labels = connected_components(reach, directed=True, connection="strong")
        for label in range(count):
            members = [neighbours[place] for place in np.flatnonzero(labels == label)]
            if len(members) > 1:
                found.append(members)
    return found


def code_lines(path: Path) -> int | None:
    """Lines that are neither blank nor a comment; None where the file is not there."""
    if not path.exists():
        return None
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    return sum(1 for line in lines if line and not line.startswith("#"))


def files_added_with(root: Path, path: str) -> list[str] | None:
    """The files, documents aside, of the commit that added `path`; None if the history has none."""

    def git(*arguments: str) -> list[str]:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True).stdout.split()

    commits = git("log", "--diff-filter=A", "--format=%H", "--", path)
    if not commits:
        return None
    changed = git("show", "--name-only", "--format=", commits[-1])
    return [name for name in changed if not name.startswith("docs/") and not name.endswith(".md")]


def golden_figures_hold(root: Path) -> bool | None:
    """Whether the golden tests pass; None where there are none."""
    if not any((root / "tests" / "golden").glob("test_*.py")):
        return None
    command = [sys.executable, "-m", "pytest", "-q", "tests/golden"]
    return subprocess.run(command, cwd=root, stdout=sys.stderr).returncode == 0


def measured(modules: list[Module]) -> dict[str, list[Place]]:
    """What is counted in the sources themselves: each figure's places, the largest first."""
    measures = declared_measures(modules)
    places: dict[str, list[Place]] = {
        "toxic_elsewhere": [
            place
            for module in modules
            if not in_task_room(module)
            for place in task_words(module, measures)
        ],
        "most_parameters": [],
        "longest_function": [],
        "longest_module": [
            module.place(len(module.text.splitlines()), 1, "module") for module in modules
        ],
    }
    for module in modules:
        for function, bound in functions(module):
            line, name = function.lineno, function.name
            length = (function.end_lineno or line) - line + 1
            places["longest_function"].append(module.place(length, line, name))
            count = parameters(function, bound)
            places["most_parameters"].append(module.place(count, line, name))
    return {
        key: sorted(found, key=lambda place: (-place.value, place.file, place.line))
        for key, found in places.items()
    }


def show(places: dict[str, list[Place]], circles: list[list[str]]) -> None:
    for key, found in places.items():
        print(f"{key}:", file=sys.stderr)
        for place in found:
            if place.value > LIMITS.get(key, 0):
                print(f"  {place}", file=sys.stderr)
    print("import_circles:", file=sys.stderr)
    for members in circles:
        print("  " + " ".join(members), file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description="How the code is kept.")
    parser.add_argument("--show", action="store_true", help="list places on stderr")
    parser.add_argument("--quick", action="store_true", help="leave the golden figures out")
    options = parser.parse_args()

    sys.path.insert(0, str(ROOT))  # before an installed package of that name
    places = measured(read_modules(ROOT / PACKAGE))
    circles = import_circles(grimp.build_graph(PACKAGE, cache_dir=None))
    with_method = files_added_with(ROOT, f"{PACKAGE}/methods/simnpo.py")
    if options.show:
        show(places, circles)
    largest = {key: found[0].value for key, found in places.items() if key in LIMITS}
    figures: dict[str, Any] = {
        "toxic_elsewhere": len(places["toxic_elsewhere"]),
        "import_circles": len(circles),
        **largest,
        "median_module": statistics.median(place.value for place in places["longest_module"]),
        "own_task_lines": code_lines(ROOT / "examples" / "own_task.py"),
        "files_for_a_method": None if with_method is None else len(with_method),
        "same_figures": None if options.quick else golden_figures_hold(ROOT),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
