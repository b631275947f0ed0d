"""Tasks, oracles and methods of one's own: what is wrong with them is one sentence, exit code 2."""

import sys

import pytest
import yaml
from typing_extensions import get_protocol_members

from rnr_dist.config.file import load_config
from rnr_dist.config.registry import METHOD_PARTS
from rnr_dist.methods.method import Method
from rnr_dist.tasks.task import PARTS, Task
from tests.unit.command_fakes import CONFIG, rnr

TASK = """
from rnr_dist.tasks.behaviour import Behaviour, BehaviourTask
class Own(BehaviourTask):
    @classmethod
    def behaviour(cls, settings):
        return Behaviour(family="own", word="bad", oracle="{module}:Oracle")
"""
ORACLE = """
import numpy as np
class Oracle:
    version = "1"
    def score(self, contexts, responses):
        return {answer}
"""
GOOD = "np.array([0.5 for text in responses])"
SETTINGS = "from rnr_dist.config.schema import TaskSettings\n"


@pytest.fixture
def own(place, monkeypatch):
    """Write a module of one's own beside a config that names it; returns the module's name."""
    numbers = iter(range(100))

    def written(code, name="Own"):
        # A name that no other test has imported.
        module = f"own_{place.name}_{next(numbers)}".replace("-", "_")
        (place / f"{module}.py").write_text(code.replace("{module}", module))
        task = {**CONFIG["task"], "name": f"{module}:{name}"}
        task |= {"forget": task.pop("challenging"), "retain": task.pop("ordinary")}
        (place / "config.yaml").write_text(yaml.safe_dump({**CONFIG, "task": task}))
        return module

    # The command looks for modules beside the config; the next test has another folder.
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return written


def test_a_task_of_ones_own_is_checked_and_told(own, capsys):
    own(TASK + ORACLE.replace("{answer}", GOOD))
    assert rnr("check", "config.yaml") == 0
    assert "forget contexts in train" in capsys.readouterr().out
    assert load_config("config.yaml").recipe == "reveal-and-release"


ANSWERS = {
    "np.zeros((2, 1))": "the oracle returned shape (2, 1), expected (2,)",
    "0.5": "the oracle returned shape (), expected (2,)",
    "np.full(2, 1.5)": "the oracle returned 1.5 for response 0, expected 0 to 1",
    "np.full(2, np.nan)": "the oracle returned nan for response 0, expected 0 to 1",
    "1 / 0": "division by zero",
}
BROKEN = {
    "module that raises": (
        "raise RuntimeError('no licence')",
        "cannot be imported (RuntimeError: no licence); expected a module that holds the class Own",
    ),
    "module of half a line": ("class Own(", "cannot be imported (SyntaxError"),
    "no such class": ("class Other: ...", "holds no Own; expected a class"),
    "no settings": ("class Own: ...", "has no Settings; expected a class that extends TaskSett"),
    "settings of another kind": ("class Own:\n    Settings = dict", "has no Settings; expected a"),
    "not a whole task": (
        SETTINGS
        + "class Own:\n    class Settings(TaskSettings, extra='allow'): ...\n"
        + "    gives, recipe = frozenset(), 'reveal-and-release'\n    def __init__(self, _): 0",
        "lacks measures, oracle, target_above, describe, contexts, prompt, materials, read_utility",
    ),
    "what takes no config": (
        SETTINGS + "class Own:\n    class Settings(TaskSettings, extra='allow'): ...\n"
        "    recipe = 'reveal-and-release'",
        "cannot be made (TypeError",
    ),
    "a task without a behaviour": (
        "from rnr_dist.tasks.behaviour import BehaviourTask\nclass Own(BehaviourTask): ...",
        "says no behaviour; expected a method `behaviour`",
    ),
    "an unknown recipe": (
        TASK + "    recipe = 'reveal'\n" + ORACLE.replace("{answer}", GOOD),
        "recipe: found 'reveal', Input should be 'reveal-and-release', 'teach-reveal-release' or "
        "'unlearn-sequences'",
    ),
    "measures without a target": (
        TASK
        + "    @property\n    def measures(self):\n"
        + "        from rnr_dist.measures.measure import Measures\n        return Measures(())\n"
        + ORACLE.replace("{answer}", GOOD),
        "declares 0 target measures, expected one",
    ),
    "an oracle without a version": (
        TASK + ORACLE.replace("{answer}", GOOD).replace('version = "1"', ""),
        "has no `version`; expected one, to stand beside scores",
    ),
    "no such oracle": (TASK, "holds no Oracle; expected a class"),
    **{
        f"an oracle that answers {answer}": (TASK + ORACLE.replace("{answer}", answer), told)
        for answer, told in ANSWERS.items()
    },
}


@pytest.mark.parametrize("command", ["run", "check"])
@pytest.mark.parametrize("case", BROKEN)
def test_what_is_wrong_with_ones_own_code_is_one_sentence(own, refused, case, command):
    code, told = BROKEN[case]
    module = own(code)
    sentence = refused(command, "config.yaml")
    assert told in sentence
    assert module in sentence or case == "an unknown recipe"


def test_a_task_that_is_not_there_is_named(place, refused):
    for name, told in {
        "nowhere.to_be:Found": "nowhere.to_be cannot be imported (ModuleNotFoundError",
        "extractoin": "task extractoin: unknown; expected one of toxicity, coding, extraction",
    }.items():
        assert told in refused("run", "config.yaml", "--set", f"task.name={name}")


# What does not fit together


def test_a_recipe_that_the_task_gives_no_data_for_is_refused(place, refused):
    told = refused("run", "config.yaml", "--set", "recipe=unlearn-sequences")
    assert "task toxicity: gives no sequences, which the recipe unlearn-sequences works" in told


def test_a_method_that_the_task_cannot_serve_is_refused(own, refused, capsys):
    """The recipe's own methods run; what stands beside them is checked where it is asked for."""
    own(
        TASK
        + "    gives = frozenset({'contexts', 'forget', 'retain'})\n"
        + ORACLE.replace("{answer}", GOOD)
    )
    run = ("config.yaml", "--set", "methods.run=[cmd]")
    told = refused("baselines", *run)
    assert "method cmd: needs contrasts, which this task does not give; it gives contexts" in told
    assert rnr("check", *run) == 0
    assert "methods can't run: method cmd: needs contrasts" in capsys.readouterr().out


def test_a_method_that_is_not_there_is_refused(place, refused):
    for name, told in {
        "nmo": "method nmo: unknown; expected one of release, icu",
        "nowhere:Method": "method nowhere:Method: nowhere cannot be imported (ModuleNotFoundError",
        "os:path": "method os:path: lacks name, needs, Objective, adapters, refined, settings",
    }.items():
        assert told in refused("run", "config.yaml", "--set", f"methods.run=['{name}']")


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("sweep.method=icu", "sweep: the recipe reveal-and-release does not read it"),
        ("memorise.epochs=3", "memorise: the recipe reveal-and-release does not read it"),
        ("baselines.methods=[cmd]", "unknown key baselines; it is called methods now"),
        ("evaluate.choices=null", "unknown key evaluate.choices; it is called task.choices now"),
        ("evaluate.others.joint=./model", "evaluate.others: found the name 'joint', expected none"),
        ("evaluate.others.other=./nowhere", "evaluate.others.other: ./nowhere: no such folder"),
    ],
)
def test_what_the_recipe_does_not_read_or_has_moved_is_named(place, refused, override, told):
    for command in ("run", "check"):
        assert told in refused(command, "config.yaml", "--set", override)


@pytest.mark.parametrize(("protocol", "parts"), [(Task, PARTS), (Method, METHOD_PARTS)])
def test_the_parts_that_are_asked_for_are_those_of_the_protocol(protocol, parts):
    assert set(parts) == get_protocol_members(protocol)
