"""`from rnr_dist import run, check, ...`: what a program calls does what the commands do."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import rnr_dist
import rnr_dist.recipes.pipeline
import rnr_dist.run.lock
from rnr_dist.config.file import load_config
from rnr_dist.run.directory import RunDir
from tests.unit.command_fakes import furnish, rnr

ROOT = Path(__file__).parents[2]


@pytest.fixture
def place(tmp_path, monkeypatch):
    furnish(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def gone_through(monkeypatch):
    """Where the pipeline was told to go; nothing is trained."""
    calls = []

    def noted(config, task, directory, stage, check, reread):
        calls.append((config, directory.path, stage, reread))

    monkeypatch.setattr(rnr_dist.recipes.pipeline, "run_pipeline", noted)
    return calls


def test_importing_the_package_imports_nothing_else():
    code = (
        "import sys; before = set(sys.modules); import rnr_dist; print(*set(sys.modules) - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert set(done.stdout.split()) <= {"rnr_dist", "__future__", "typing"} | set(
        subprocess.run(
            [sys.executable, "-c", "import sys, typing, __future__; print(*sys.modules)"],
            capture_output=True,
            text=True,
        ).stdout.split()
    )


@pytest.mark.parametrize(
    "first",
    [
        "from rnr_dist import run",
        "import rnr_dist.run.lock; from rnr_dist import run",
        "import rnr_dist; rnr_dist.check; from rnr_dist import run",
    ],
)
def test_run_can_be_called_and_stays_the_room_whatever_comes_first(first):
    more = "from rnr_dist.run.lock import held; import rnr_dist.run.seal; "
    more += "from rnr_dist import run as r"
    code = (
        f"{first}; {more}; assert r is run and callable(run) and rnr_dist.run.seal.NOTE; run('no')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert "InputError: no: no config of that name ships" in done.stderr


def test_every_name_is_there_and_documented():
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    from rnr_dist.commands import api

    assert sorted(api.__all__) == sorted(rnr_dist.__all__)
    for name in rnr_dist.__all__:
        assert getattr(rnr_dist, name) is not None
        assert f"`{name}" in page
    assert rnr_dist.__version__ == "0.2.0"
    assert set(rnr_dist.__all__) <= set(dir(rnr_dist))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        rnr_dist.nothing  # noqa: B018


def test_a_config_comes_from_a_name_a_file_values_or_a_config(place):
    demo = rnr_dist.load_config("demo")
    assert demo == load_config(ROOT / "configs" / "demo.yaml")
    changed = {"reveal.budget": 9, "release.forget.epochs": 4}
    for source in ("demo", ROOT / "configs" / "demo.yaml", demo):
        found = rnr_dist.load_config(source, changed)
        assert (found.reveal.budget, found.release.forget.epochs) == (9, 4)
        assert found.task == demo.task
    values = {"name": "mine", "task": {"name": "extraction"}}
    assert rnr_dist.load_config(values, {"seed": 3}).seed == 3
    assert values == {"name": "mine", "task": {"name": "extraction"}}  # as they were
    with pytest.raises(rnr_dist.InputError, match="config: unknown key reveal"):
        rnr_dist.load_config(demo, {"reveal.budgte": 1})


def test_check_says_what_the_command_says(place, capsys):
    assert rnr("check", "config.yaml") == 0
    assert rnr_dist.check("config.yaml") == capsys.readouterr().out.splitlines()
    with pytest.raises(rnr_dist.InputError, match=r"nowhere\.txt"):
        rnr_dist.check("config.yaml", {"task.challenging.source": "nowhere.txt"})


def test_a_run_goes_as_far_as_it_is_told(place, gone_through, capsys):
    made = rnr_dist.run("config.yaml", {"seed": 7}, to="release", folder="mine")
    [(config, path, stage, reread)] = gone_through
    assert (config.seed, path, stage, reread) == (7, made, "release", False)
    assert made.name == "mine" and (made / "config.json").exists()
    assert capsys.readouterr().out == ""
    RunDir(made).finish("reveal", rnr_dist.recipes.pipeline.fingerprint(config, "reveal"))
    assert rnr_dist.run("config.yaml", {"seed": 7}, resume=made) == made
    assert gone_through[-1][2] == "report"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"to": "everything"}, "run: found 'everything', expected one of run, reveal"),
        ({"folder": "a", "resume": "b"}, "found both, expected one"),
        ({"resume": "nowhere"}, "nowhere: no run directory"),
    ],
)
def test_what_a_caller_gets_wrong_is_an_input_error(place, gone_through, options, told):
    with pytest.raises(rnr_dist.InputError, match=told):
        rnr_dist.run("config.yaml", **options)
    assert gone_through == []


def test_a_summary_is_read_from_its_run(tmp_path):
    with pytest.raises(rnr_dist.InputError, match=r"summary\.json: not there"):
        rnr_dist.summary(tmp_path)


def test_the_schema_is_the_commands(capsys):
    assert rnr("schema") == 0
    assert json.loads(capsys.readouterr().out) == rnr_dist.config_schema()
