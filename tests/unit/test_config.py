"""Configs: what ships parses, what is wrong gets one sentence that names it."""

import re
from pathlib import Path

import pytest
import yaml

from rnr_dist.config.file import load_any_config, load_config
from rnr_dist.config.schema import Config
from rnr_dist.errors import InputError

ROOT = Path(__file__).parents[2]
SHIPPED = sorted((ROOT / "configs").glob("*.yaml"))


@pytest.fixture
def write(tmp_path):
    """Write a small valid config with `more` at its end; returns the path."""

    def written(more=""):
        content = yaml.safe_load((ROOT / "configs" / "demo.yaml").read_text())
        small = {"name": content["name"], "task": content["task"]}
        path = tmp_path / "small.yaml"
        path.write_text(yaml.safe_dump(small) + more)
        return path

    return written


def sentence(path, *overrides):
    with pytest.raises(InputError) as caught:
        load_config(path, list(overrides))
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_configs_ship():
    assert SHIPPED


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_every_shipped_config_parses_and_has_a_name_of_its_own(path, monkeypatch):
    for name in re.findall(r"\$\{(\w+)\}", path.read_text()):
        monkeypatch.setenv(name, "/data")
    load_any_config(path)
    names = [yaml.safe_load(shipped.read_text())["name"] for shipped in SHIPPED]
    assert len(set(names)) == len(names)


def test_values_are_read_and_the_rest_has_defaults(write):
    config = load_config(write("reveal: {budget: 7}\n"))
    assert config.reveal.budget == 7
    assert config.reveal.arms == Config.model_fields["reveal"].default.arms
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 1


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("reveal: {budgte: 7}", "unknown key reveal.budgte; did you mean budget?"),
        ("revael: {budget: 7}", "unknown key revael; did you mean reveal?"),
        ("release: {mu0: {low: 1, hihg: 2}}", "unknown key release.mu0.hihg; did you mean high?"),
        ("zzzz: 1", "unknown key zzzz"),
        ("reveal: {budget: many}", "reveal.budget: found 'many', Input should be a valid integer"),
        ("reveal: 3", "reveal: found 3, Input should be a valid dictionary"),
        ("reveal: {budget: 0}", "reveal.budget: found 0, Input should be greater than or equal"),
        ("reveal: {alpha: 1.5}", "reveal.alpha: found 1.5, Input should be less than or equal"),
        ("reveal: {mode: papre}", "reveal.mode: found 'papre', Input should be 'default', 'pap"),
        ("release: {confidence: 1}", "release.confidence: found 1, Input should be less than 1"),
        ("release: {mu0: {low: 3, high: 2}}", "low must not be above high"),
        ("release: {mu0: {low: 3}}", "release.mu0.high is missing"),
        ("reveal: {arms: 4, budget: 8}", "small.yaml: reveal: arms 4 must not be below budget 8"),
        ("perplexity: {window: 64, stride: 65}", "stride must not be above window"),
        (
            "release: {forget: {objective: {name: orthogonal, weihgt: 1}}}",
            "unknown key release.forget.objective.orthogonal.weihgt; did you mean weight?",
        ),
        (
            "release: {retain: {objective: {name: dop}}}",
            "does not match any of the expected tags: 'causal', 'dpo', 'rmu', 'cmd', 'orthogonal'",
        ),
        (
            "release: {forget: {objective: {name: cmd}}}",
            "release: forget.objective.name cmd needs more than forget texts; expected causal",
        ),
        ("release: {forget: {layers: []}}", "release.forget.layers: found [], List should have"),
        ("evaluate: {split: finale}", "evaluate.split: found 'finale', Input should be 'reveal',"),
    ],
)
def test_a_bad_key_or_value_is_named(write, more, message):
    path = write(more + "\n")
    found = sentence(path)
    assert found.startswith(f"{path}: ")
    assert message in found


def test_an_unknown_key_in_a_list_of_sources_knows_its_neighbours(write):
    path = write()
    content = yaml.safe_load(path.read_text())
    content["task"]["out_of_domain"][0]["fromat"] = "wikitext"
    path.write_text(yaml.safe_dump(content))
    assert "unknown key task.out_of_domain.0.fromat; did you mean format?" in sentence(path)


def test_a_misspelt_section_is_called_unknown_and_not_only_missing(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("name: x\ntaks: {}\n")
    assert "unknown key taks; did you mean task?" in sentence(path)
    path.write_text("name: x\n")
    assert sentence(path).endswith("task is missing")


def test_a_split_that_does_not_exist_is_named(write):
    path = write()
    content = yaml.safe_load(path.read_text())
    content["task"]["challenging"]["splits"]["serach"] = 1
    path.write_text(yaml.safe_dump(content))
    assert "task.challenging.splits.serach" in sentence(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file or directory"),
        (b"a: [1, 2", "is no YAML"),
        (b"- a\n- b\n", "found list, expected a mapping"),
        (b"", "found NoneType, expected a mapping"),
        (b"\xff\xfe\x00name", "cannot be read (no UTF-8 text)"),
    ],
)
def test_a_file_that_is_no_config_is_named(tmp_path, content, message):
    path = tmp_path / "c.yaml"
    if content is not None:
        path.write_bytes(content)
    found = sentence(path)
    assert found.startswith(f"{path}: ")
    assert message in found


def test_a_folder_is_no_config(tmp_path):
    assert sentence(tmp_path) == (
        f"{tmp_path}: cannot be read (Is a directory); expected a YAML config"
    )


def test_overrides_are_yaml_values_at_dotted_keys(write):
    path = write("reveal: {budget: 7}\n")
    overrides = [
        "reveal.budget=9",
        "release.mu0.low=1e-1",
        "release.mu0.high=2",
        "release.forget.target_modules=[q_proj]",
        "tracking.uri=''",
        "name=a=b",
    ]
    config = load_config(path, overrides)
    assert (config.reveal.budget, config.release.mu0.low) == (9, 0.1)
    assert config.release.forget.target_modules == ["q_proj"]
    assert config.name == "a=b"


def test_a_rate_is_a_number_where_nothing_says_what_it_should_be(write):
    """YAML 1.1 reads a number with an exponent and no point, or no sign, as text."""
    path = write("baselines: {dpo: {grid: [{learning_rate: 1e-4}, {learning_rate: 2.5E+2}]}}\n")
    grid = "baselines.cmd.grid=[{learning_rate: 3e-4}]"
    config = load_config(path, [grid])
    assert [place["learning_rate"] for place in config.baselines.dpo.grid] == [1e-4, 250.0]
    assert config.baselines.cmd.grid == [{"learning_rate": 3e-4}]
    assert load_config(path, ["name=v1e4"]).name == "v1e4"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("reveal.budget", "--set reveal.budget: expected KEY=VALUE"),
        ("reveal.budgte=3", "unknown key reveal.budgte; did you mean budget?"),
        ("name.first=x", "--set name.first=x: name is a value, not a section"),
        ("reveal.budget=[1", "--set reveal.budget=[1: [1 is no YAML"),
        ("reveal.budget=-1", "reveal.budget: found -1"),
    ],
)
def test_a_bad_override_is_named(write, override, message):
    assert message in sentence(write(), override)


def test_variables_come_from_the_environment(write, monkeypatch):
    monkeypatch.setenv("RNR_TEST_PLACE", "/somewhere/else")
    path = write("model: ${RNR_TEST_PLACE}/model\n")
    assert load_config(path).model == "/somewhere/else/model"
    monkeypatch.delenv("RNR_TEST_PLACE")
    assert "uses ${RNR_TEST_PLACE}, which is not set" in sentence(path)


def test_a_fingerprint_changes_with_its_keys_alone(write):
    path = write()
    before = load_config(path)
    keys = ("seed", "reveal", "engines.dtype")
    assert before.fingerprint(*keys) == load_config(path).fingerprint(*keys)
    for other in ("release.iterations=3", "engines.count=1", "name=other"):
        assert load_config(path, [other]).fingerprint(*keys) == before.fingerprint(*keys)
    for own in ("seed=5", "reveal.response.n=2", "engines.dtype=float32"):
        assert load_config(path, [own]).fingerprint(*keys) != before.fingerprint(*keys)
    assert before.fingerprint("seed") != before.fingerprint("seed", "reveal")
