"""benchmarks/house.py counts what it says, on little packages written for it."""

import json
import subprocess
import sys
from pathlib import Path

import grimp
import pytest

from benchmarks.house import (
    code_lines,
    declared_measures,
    files_added_with,
    golden_figures_hold,
    import_circles,
    measured,
    read_modules,
)

ROOT = Path(__file__).parents[2]


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Writes {path in the package: source} as a package of the test's own name."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(sources: dict[str, str]) -> Path:
        folder = tmp_path / f"house_{len(list(tmp_path.iterdir()))}"
        for name, source in sources.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            for parent in [path.parent, *path.parents]:
                if parent.is_relative_to(folder):
                    (parent / "__init__.py").touch()
            path.write_text(source)
        return folder

    return write


def words(folder: Path) -> list[tuple[int, str]]:
    return [(place.line, place.name) for place in measured(read_modules(folder))["toxic_elsewhere"]]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("from house.tasks.toxicity import Task as Toxic", [(1, "toxicity"), (1, "Toxic")]),
        ("a.toxic_above = f(least_toxic=1)", [(1, "toxic_above"), (1, "least_toxic")]),
        ("def f(CHALLENGING): ...", [(1, "CHALLENGING")]),
        ("class Toxicity: ...", [(1, "Toxicity")]),
        ("x = 'ordinary', 'ordinary text'", [(1, "'ordinary'")]),
        ("x = f'judge/{group}/fraction'", [(1, "'judge/'")]),
        ("x = 'rouge', 'rouges'", [(1, "'rouge'")]),
        ("def f():\n    '''Reads.\n\n    A Toxic text.\n    '''", [(4, "'A Toxic text.'")]),
        ("x = 1  # no toxic ones", [(1, "'# no toxic ones'")]),
        ("'''An ordinary module, challenging/ordinary.'''\nx = 1  # ordinary", []),
        ("def f(score, group): return 'loss/forget', group", []),
    ],
)
def test_words_of_a_task_are_counted_outside_its_rooms(source, expected, package):
    home = {"tasks/one.py": "TOXIC = 'toxic'\nM = Measure('rouge', 'R')\n"}
    at_home = package({**home, "score/oracles/lexicon.py": source, "data/formats.py": source})
    assert words(at_home) == []
    assert sorted(words(package({**home, "report/table.py": source}))) == sorted(expected)


def test_declared_measures_are_read_from_the_rooms_that_declare_them(package):
    source = "Measure('a/b', unit='x'); measures.Measure(name='c'); Measure(variable); Other('d')"
    folder = package({"measures/one.py": source, "report/other.py": "Measure('e')"})
    assert declared_measures(read_modules(folder)) == {"a/b", "c"}


def test_parameters_and_lengths(package):
    source = """class A:
    field: int = 0

    @property
    def none(self): ...

    @staticmethod
    def three(a, b, /, *, c): ...

    def four(self, a, b=1, *rest, **more):
        def five(self, a, b, c, d):
            return (
                a
            )
"""
    places = measured(read_modules(package({"a.py": source})))
    counted = {place.name: place.value for place in places["most_parameters"]}
    assert counted == {"none": 0, "three": 3, "four": 4, "five": 5}
    lengths = [(place.name, place.value) for place in places["longest_function"]]
    assert lengths == [("four", 5), ("five", 4), ("none", 1), ("three", 1)]
    assert [place.value for place in places["longest_module"]] == [14, 0]


def circles(folder: Path) -> list[list[str]]:
    found = import_circles(grimp.build_graph(folder.name, cache_dir=None))
    return [[name.removeprefix(f"{folder.name}.") for name in members] for members in found]


def test_circles_of_files_and_of_folders_are_found_once(package):
    def sources(name: str) -> dict[str, str]:
        return {
            "down.py": f"import {name}.rooms.a",
            # Two folders reach each other, though no two of their files do.
            "left/one.py": f"import {name}.right.one",
            "left/two.py": "",
            "right/one.py": "",
            "right/two.py": f"def later():\n    import {name}.left.two",
            # Three files, one of them for types alone.
            "rooms/a.py": f"import {name}.rooms.b",
            "rooms/b.py": f"import {name}.rooms.c",
            "rooms/c.py": f"from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n"
            f"    import {name}.rooms.a",
            # A package and a module of its own.
            "own/part.py": f"from {name}.own import thing",
        }

    folder = package(sources("house_0"))
    (folder / "own" / "__init__.py").write_text(f"import {folder.name}.own.part\nthing = 1")
    assert folder.name == "house_0"
    three = ["rooms.a", "rooms.b", "rooms.c"]
    assert circles(folder) == [["left", "right"], ["own", "own.part"], three]


def test_code_lines_leave_out_blanks_and_comments(tmp_path):
    path = tmp_path / "own_task.py"
    assert code_lines(path) is None
    path.write_text('"""Role."""\n\n  # why\nx = 1  # here\n\n')
    assert code_lines(path) == 2


def test_files_of_the_commit_that_added_a_method(tmp_path):
    def git(*arguments: str) -> None:
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", "-C", tmp_path, *who, *arguments], check=True, capture_output=True)

    def commit(*names: str) -> None:
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(path.read_text() + "more\n" if path.exists() else "first\n")
        git("add", "-A")
        git("commit", "-m", "x")

    git("init")
    commit("house/registry.py")
    assert files_added_with(tmp_path, "house/simnpo.py") is None
    commit("house/simnpo.py", "house/registry.py", "docs/methods.txt", "README.md")
    commit("house/simnpo.py", "house/other.py")
    assert files_added_with(tmp_path, "house/simnpo.py") == ["house/registry.py", "house/simnpo.py"]


def test_golden_figures_hold_only_if_their_tests_pass(tmp_path):
    assert golden_figures_hold(tmp_path) is None
    (tmp_path / "tests" / "golden").mkdir(parents=True)
    test = tmp_path / "tests" / "golden" / "test_one.py"
    test.write_text("def test_one(): assert 1 == 1\n")
    assert golden_figures_hold(tmp_path) is True
    test.write_text("def test_one(): assert 1 == 2\n")
    assert golden_figures_hold(tmp_path) is False


def test_the_last_line_is_json_and_the_places_go_to_stderr():
    command = [sys.executable, ROOT / "benchmarks" / "house.py", "--show", "--quick"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    figures = json.loads(done.stdout.splitlines()[-1])
    assert list(figures) == [
        "toxic_elsewhere",
        "import_circles",
        "most_parameters",
        "longest_function",
        "longest_module",
        "median_module",
        "own_task_lines",
        "files_for_a_method",
        "same_figures",
    ]
    assert figures["longest_module"] >= figures["median_module"] > 0
    assert "most_parameters:" in done.stderr
