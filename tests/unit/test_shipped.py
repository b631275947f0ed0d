"""Configs that ship, by name; examples to begin with; the schema that editors read."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from rnr_dist.config import shipped
from rnr_dist.config.editor import config_schema, study_schema
from rnr_dist.config.file import load_config, load_study
from rnr_dist.config.registry import METHODS
from rnr_dist.config.shipped import STUDIES, config_path, examples
from rnr_dist.config.strict_yaml import read_yaml
from rnr_dist.errors import InputError
from rnr_dist.tasks import TASKS
from tests.unit.command_fakes import rnr

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
OTHERS = [*(ROOT / "tests" / "e2e").glob("*.yaml"), ROOT / "examples" / "own_task.yaml"]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_of_the_checkout_is_found_by_its_name(path, monkeypatch):
    monkeypatch.setenv("RNR_DATA_DIR", "/data")
    assert config_path(path.stem) == path
    assert load_config(path.stem) == load_config(path)


def test_a_study_is_found_by_its_name():
    for path in (ROOT / "configs" / "studies").glob("*.yaml"):
        assert config_path(path.stem, STUDIES) == path
        assert load_study(path.stem).study


def test_names_are_those_that_ship_and_paths_have_an_ending_or_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("demo", "demo.yaml", "mine"):
        (tmp_path / name).write_text("name: other\ntask: {}\n", encoding="utf-8")
    assert config_path("demo") == ROOT / "configs" / "demo.yaml"  # no file beside hides it
    for path in ("demo.yaml", "other.yml", "sub/demo", "/demo"):
        assert config_path(path) == Path(path)
    with pytest.raises(InputError, match=r"mine: no config of that name ships .*ends with .yaml"):
        config_path("mine")
    with pytest.raises(InputError, match="did you mean icu_small"):
        config_path("icu_smal")


def test_in_an_installed_wheel_the_configs_lie_beside_the_modules(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "PACKAGE", tmp_path)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "own.yaml").touch()
    assert config_path("own") == tmp_path / "configs" / "own.yaml"


# rnr init


@pytest.mark.parametrize("example", ["behaviour", "sequences", "demo", "icu_small"])
def test_an_example_is_written_under_its_name_and_passes(example, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert rnr("init", "mine", "--from", example) == 0
    assert capsys.readouterr().out == "mine.yaml\n"
    config = load_config("mine.yaml")
    assert config.name == "mine"
    known = examples() | shipped.shipped()
    assert load_config(known[example]) == config.model_copy(
        update={"name": config_name(known[example])}
    )


def config_name(path):
    return load_config(path).name


def test_examples_explain_themselves():
    assert set(examples()) == {"behaviour", "sequences"}
    for path in examples().values():
        lines = path.read_text(encoding="utf-8").splitlines()
        assert sum("#" in line for line in lines) > len(lines) / 3


def test_init_overwrites_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("mine", encoding="utf-8")
    assert rnr("init", "mine") == rnr("init", "mine.yaml") == 2
    assert capsys.readouterr().err.count("mine.yaml: is there already and is not overwritten") == 2
    assert (tmp_path / "mine.yaml").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["a/b"], "init: found the name 'a/b'; expected a name without slashes"),
        (
            ["mine", "--from", "nothing"],
            "--from nothing: expected one of behaviour, sequences, coding_mbpp",
        ),
    ],
)
def test_what_init_cannot_write_is_one_sentence(arguments, told, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert rnr("init", *arguments) == 2
    assert told in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_name_with_quotes_stays_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert rnr("init", 'my "model": 7') == 0
    assert load_config('./my "model": 7.yaml').name == 'my "model": 7'


# rnr schema


@pytest.fixture(scope="module")
def fits():
    schema = config_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    return lambda content: [error.message for error in validator.iter_errors(content)]


def plain(path):
    return read_yaml(
        path.read_text(encoding="utf-8"), str(path), {**os.environ, "RNR_DATA_DIR": "x"}
    )


@pytest.mark.parametrize(
    "path", [*CONFIGS, *examples().values(), *OTHERS], ids=lambda path: path.stem
)
def test_every_config_fits_the_schema(path, fits):
    assert fits(plain(path)) == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("reveel", {}),
        ("reveal", {"budgte": 3}),
        ("reveal", {"budget": "many"}),
        ("reveal", {"budget": 0}),
        ("engines", {"backend": "tgi"}),
        ("task", {"name": "extraction", "forgot": {"source": "a.txt"}}),
        ("task", {"name": "toxicty"}),
        ("release", {"forget": {"objective": {"name": "icu", "weight": 1}}}),
        ("methods", {"icu": {"training": {"learning_rat": 1}}}),
        ("methods", {"icuu": {}}),
    ],
)
def test_what_a_config_may_not_say_does_not_fit(key, value, fits):
    content = plain(ROOT / "configs" / "demo.yaml")
    assert fits(content) == []
    assert fits({**content, key: value})


def test_the_schema_knows_each_task_and_method_and_what_is_of_ones_own(fits):
    schema = config_schema()
    names = {
        part["properties"]["name"]["const"]
        for part in schema["$defs"].values()
        if "const" in part.get("properties", {}).get("name", {})
    }
    assert set(TASKS) <= names
    assert set(METHODS) <= set(schema["$defs"]["Methods"]["properties"])
    own = {"name": "mine", "task": {"name": "own:Task", "anything": 1}}
    assert fits({**own, "methods": {"own:Method": {"grid": [{"learning_rate": 1}]}}}) == []


def test_keys_are_described():
    described = config_schema()["$defs"]["Reveal"]["properties"]
    assert all("description" in key for key in described.values())


def test_studies_have_a_schema():
    validator = jsonschema.Draft202012Validator(study_schema())
    for path in (ROOT / "configs" / "studies").glob("*.yaml"):
        validator.validate(plain(path))
    assert not validator.is_valid({"study": "a", "config": "b.yaml", "seed": [1]})


def test_the_command_prints_it(capsys):
    assert rnr("schema") == 0
    assert json.loads(capsys.readouterr().out) == config_schema()
    assert rnr("schema", "--study") == 0
    assert json.loads(capsys.readouterr().out) == study_schema()


# --version, -h, completion


def test_the_version_and_the_short_help(capsys):
    assert rnr("--version") == 0
    assert capsys.readouterr().out == "rnr 0.2.0\n"
    for command in ([], ["run"], ["init"]):
        assert rnr(*command, "-h") == 0
        assert "Usage" in capsys.readouterr().out


def test_a_shell_completes_commands():
    """As bash asks: the words in the environment, the answers on standard output."""
    asked = {"_RNR_COMPLETE": "complete_bash", "COMP_WORDS": "rnr ver", "COMP_CWORD": "1"}
    code = "import sys; sys.argv[0] = 'rnr'; from rnr_dist.commands.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **asked}, capture_output=True, text=True
    )
    assert done.stdout.split() == ["verify"], done.stderr
