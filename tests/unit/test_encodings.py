"""Every text file is opened with its encoding named: a machine's own may be another."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = [
    path
    for folder in ("rnr_dist", "jobs", "cluster", "docs", "examples", "benchmarks")
    for path in sorted((ROOT / folder).rglob("*.py"))
]
TEXT_CALLS = {"read_text", "write_text"}
# What `open` belongs to that is no file: a run directory, a checkpoint, an archive of arrays.
OTHER_OPENERS = {"RunDir", "webbrowser", "tarfile", "zipfile", "Image"}


def nameless(source):
    """Lines of calls that open a text file in the machine's own encoding."""
    for call in ast.walk(ast.parse(source)):
        if not isinstance(call, ast.Call):
            continue
        function, keywords = call.func, {word.arg for word in call.keywords}
        name = getattr(function, "attr", getattr(function, "id", ""))
        if "encoding" in keywords or name not in {*TEXT_CALLS, "open", "fdopen"}:
            continue
        owner = getattr(getattr(function, "value", None), "id", "")
        if owner in OTHER_OPENERS or (owner, name) == ("os", "open"):  # which gives a handle
            continue
        constants = [word.value for word in ast.walk(call) if isinstance(word, ast.Constant)]
        if name in TEXT_CALLS or not any(
            isinstance(word, str) and set(word) <= set("rwaxb+") and "b" in word
            for word in constants
        ):
            yield call.lineno


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_text_is_read_or_written_in_the_machines_own_encoding(path):
    assert list(nameless(path.read_text(encoding="utf-8"))) == []


def test_the_search_finds_what_it_looks_for():
    assert list(nameless("p.read_text()\np.open('w')\nopen(p)\np.write_text('a')")) == [1, 2, 3, 4]
    fine = "p.read_text(encoding='utf-8')\np.open('rb')\nRunDir.open(p, c)\nopen(p, mode='wb')"
    assert list(nameless(fine)) == []
