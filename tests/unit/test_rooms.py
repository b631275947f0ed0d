"""The rooms keep their order: no import runs back up, none closes a circle, the core starts no Ray.

The order stands in pyproject.toml under `tool.importlinter`.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from importlinter.application.use_cases import lint_imports
from importlinter.configuration import configure

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "rnr_dist"
LOADED_BY_MLFLOW = Path("report/served.py")  # a script that no module here imports
SHELL = {"generate", "score", "train", "machine", "recipes", "commands", "bench.py"}
ENGINES = {"ray", "vllm", "mlflow"}


@pytest.mark.parametrize("contract", ["rooms", "circles"])
def test_imports_run_down_and_close_no_circle(contract, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    configure()
    kept = lint_imports("pyproject.toml", (contract,), cache_dir=None, no_logo=True)
    assert kept, capsys.readouterr().out


def test_an_arrow_that_runs_up_is_named(tmp_path, capsys, monkeypatch):
    """The linter counts imports for types alone, and those inside functions."""
    package = tmp_path / "little_house"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "roof.py").write_text("import little_house.cellar\n")
    (package / "cellar.py").write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import little_house.roof\n"
    )
    (tmp_path / "pyproject.toml").write_text(
        '[tool.importlinter]\nroot_package = "little_house"\n'
        '[[tool.importlinter.contracts]]\nname = "order"\ntype = "layers"\n'
        'containers = ["little_house"]\nlayers = ["roof", "cellar"]\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    configure()
    config = str(tmp_path / "pyproject.toml")
    assert not lint_imports(config, cache_dir=None, no_logo=True)
    assert "little_house.cellar -> little_house.roof (l.3)" in capsys.readouterr().out


def loaded(statements: list[ast.stmt]) -> Iterator[tuple[int, str]]:
    """(line, top-level name) of each import that runs when a module is loaded."""
    for node in statements:
        match node:
            case ast.Import(names=names):
                yield from ((node.lineno, name.name.partition(".")[0]) for name in names)
            case ast.ImportFrom(module=str(module), level=0):
                yield node.lineno, module.partition(".")[0]
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                pass
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                yield from loaded(node.orelse)
            case _:
                for block in ("body", "orelse", "finalbody"):
                    yield from loaded(getattr(node, block, []))
                for handler in getattr(node, "handlers", []):
                    yield from loaded(handler.body)


def test_what_runs_when_a_module_loads_is_told_from_what_waits():
    source = """
import ray.data
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    import mlflow
try:
    from vllm import LLM
except ImportError:
    import mlflow.entities
def later():
    import ray
class Actor:
    import ray
"""
    found = [(line, name) for line, name in loaded(ast.parse(source).body) if name in ENGINES]
    assert found == [(2, "ray"), (7, "vllm"), (9, "mlflow"), (13, "ray")]


def test_the_core_loads_neither_ray_nor_vllm_nor_mlflow():
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        place = path.relative_to(PACKAGE)
        if place.parts[0] not in SHELL and place != LOADED_BY_MLFLOW:
            for line, name in loaded(ast.parse(path.read_text()).body):
                if name in ENGINES:
                    found.append(f"rnr_dist/{place}:{line} imports {name}")
    assert found == []
