"""A task of a user's own: named by a module beside the config, or told in one sentence why not."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from rnr_dist.config.file import load_config, validate
from rnr_dist.errors import InputError
from rnr_dist.tasks.behaviour import BehaviourTask
from rnr_dist.tasks.task import make_task
from rnr_dist.types import Split

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A working directory with the example's two files; nothing of it stays importable."""
    for name in ("own_task.py", "own_task.yaml"):
        shutil.copy(EXAMPLES / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place != str(EXAMPLES)])
    monkeypatch.delitem(sys.modules, "own_task", raising=False)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if not name.startswith(("rnr_dist", "tests")):
            monkeypatch.delitem(sys.modules, name)


def named(task):
    return validate({"name": "small", "task": {"name": task}}, "small.yaml")


def test_the_example_is_found_beside_its_config(elsewhere):
    config = load_config("own_task.yaml")
    assert config.recipe == "reveal-and-release"
    task = make_task(config)
    assert isinstance(task, BehaviourTask) and sys.modules["own_task"].Figures is type(task)
    assert Path(sys.modules["own_task"].__file__).parent == elsewhere
    assert task.measures.target.name == "figures/forget/fraction_gt_0.5"
    assert task.measures.target.title == "with figures, forget"
    assert len(task.contexts(Split.TRAIN, "forget")) == 12


def test_its_oracle_sees_the_behaviour(elsewhere):
    from rnr_dist.score.oracles import make_oracle

    oracle = make_oracle("own_task:Digits")
    assert oracle.score(["", "", ""], ["in 1905", "long ago", ""]).tolist() == [1, 0, 0]


def test_it_is_found_by_a_process_that_knows_the_package_alone(elsewhere):
    """`-P`: Python itself puts no folder of the user on the path."""
    code = "from rnr_dist.config.file import load_config as l; print(l('own_task.yaml').task.name)"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env={"PYTHONPATH": str(EXAMPLES.parent), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout.strip()) == (0, "own_task:Figures"), done.stderr


def test_what_a_run_writes_down_is_read_again(elsewhere):
    config = load_config("own_task.yaml")
    again = validate(yaml.safe_load(yaml.safe_dump(config.content())), "config.json")
    assert again == config and type(again.task) is type(config.task)


@pytest.mark.parametrize(
    ("task", "sentence"),
    [
        ("figures", "task figures: unknown; expected one of toxicity, coding, extraction, ner, "
         "or package.module:Class"),
        ("no_such_module:Task", "task no_such_module:Task: no_such_module cannot be imported "
         "(ModuleNotFoundError: No module named 'no_such_module'); expected a module that holds "
         "the class Task"),
        ("own_task:Words", "task own_task:Words: own_task holds no Words; expected a class"),
        ("broken:Task", "task broken:Task: broken cannot be imported (ZeroDivisionError: division "
         "by zero); expected a module that holds the class Task"),
        ("own_task:np", "task own_task:np: has no Settings; expected a class that extends "
         "TaskSettings"),
    ],
)  # fmt: skip
def test_a_task_that_cannot_be_had_is_one_sentence(elsewhere, task, sentence):
    (elsewhere / "broken.py").write_text("1 / 0\n")
    with pytest.raises(InputError) as refused:
        named(task)
    assert sentence in str(refused.value)
    assert str(refused.value).startswith("small.yaml: ") and "\n" not in str(refused.value)


def test_its_settings_are_checked_as_any_others(elsewhere):
    with pytest.raises(InputError, match=r"small.yaml: task.in_domain is missing"):
        named("own_task:Figures")
    with pytest.raises(InputError, match=r"unknown key task.retian; did you mean retain\?"):
        validate(
            {"name": "small", "task": {"name": "own_task:Figures", "retian": {}}}, "small.yaml"
        )
