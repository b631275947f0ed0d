"""Configs: what ships parses, what is wrong gets one sentence that names it."""

import re
from pathlib import Path

import pytest
import yaml

from rnr_dist.config.file import load_config, load_study, validate
from rnr_dist.config.schema import Config
from rnr_dist.errors import InputError
from rnr_dist.recipes.study import study_cells

ROOT = Path(__file__).parents[2]
SHIPPED = sorted((ROOT / "configs").glob("*.yaml"))
STUDIES = sorted((ROOT / "configs" / "studies").glob("*.yaml"))
# Of the example, and of tests that run the real model: those are not run by everybody's checks.
FURTHER = [ROOT / "examples" / "own_task.yaml", *sorted((ROOT / "tests" / "e2e").glob("*.yaml"))]


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
    assert SHIPPED and STUDIES and len(FURTHER) > 1


@pytest.mark.parametrize("path", [*SHIPPED, *FURTHER], ids=lambda path: path.name)
def test_every_config_parses_and_comes_back_from_its_own_values(path, monkeypatch):
    monkeypatch.chdir(path.parent)
    for name in re.findall(r"\$\{(\w+)\}", path.read_text()):
        monkeypatch.setenv(name, "/data")
    config = load_config(path)
    assert validate(config.content(), "") == config


def test_shipped_configs_have_names_of_their_own():
    names = [yaml.safe_load(shipped.read_text())["name"] for shipped in SHIPPED]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.name)
def test_every_run_of_a_shipped_study_parses(path, tmp_path):
    study, cells = study_cells(path, tmp_path)
    assert len(cells) == len(study.seeds) * max(1, len(study.variants))
    assert len({cell.folder for cell in cells}) == len(cells)
    assert load_study(path) == study


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
            "unknown key release.forget.objective.weihgt; did you mean weight?",
        ),
        (
            "release: {retain: {objective: {name: dop}}}",
            "release.retain.objective: method dop: unknown; expected one of release, icu",
        ),
        (
            "release: {forget: {objective: {name: cmd}}}",
            "release: forget.objective.name cmd needs more than forget texts; expected causal",
        ),
        ("release: {forget: {layers: []}}", "release.forget.layers: found [], List should have"),
        ("methods: {cmd: {gird: [{}]}}", "unknown key methods.cmd.gird; did you mean grid?"),
        ("methods: {cmdd: {}}", "unknown key methods.cmdd; did you mean cmd?"),
        ("methods: {retaned: 3}", "unknown key methods.retaned; did you mean retained?"),
        ("methods: {cmd: {grid: [{rate: 1}]}}", "unknown key methods.cmd.grid.0.rate"),
        ("methods: {run: [cmd, nmd]}", "method nmd: unknown; expected one of release, icu, kumpr"),
        ("evaluate: {others: {cmd: ./m}}", "evaluate.others: found the name 'cmd', expected none"),
        ("evaluate: {others: {a/b: ./m}}", "others: found the name 'a/b', expected letters"),
        ("recipe: reveal", "recipe: found 'reveal', Input should be 'reveal-and-release', "),
        ("preset: paper", "preset: found paper, which the recipe reveal-and-release does not have"),
        ("sweep: {}", "sweep: the recipe reveal-and-release does not read it"),
        ("stopping: {}", "stopping: the recipe reveal-and-release does not read it"),
        ("baselines: {}", "unknown key baselines; it is called methods now"),
        ("methods: {methods: [cmd]}", "unknown key methods.methods; it is called methods.run now"),
        ("retain: {detoxified_per_context: 1}", "it is called retain.mild_per_context now"),
        ("evaluate: {choices: x}", "unknown key evaluate.choices; it is called task.choices now"),
        ("evaluate: {dialogues: x}", "evaluate.dialogues; it is called task.dialogues now"),
        ("evaluate: {sampled_n: 5}", "evaluate.sampled_n; it is called task.sampled_n now"),
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
    path = write("methods: {dpo: {grid: [{learning_rate: 1e-4}, {learning_rate: 2.5E+2}]}}\n")
    grid = "methods.cmd.grid=[{learning_rate: 3e-4}]"
    config = load_config(path, [grid])
    assert [place["learning_rate"] for place in config.methods.of("dpo").grid] == [1e-4, 250.0]
    assert config.methods.of("cmd").grid == [{"learning_rate": 3e-4}]
    assert load_config(path, ["name=v1e4"]).name == "v1e4"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("reveal.budget", "--set reveal.budget: expected KEY=VALUE"),
        ("reveal.budgte=3", "unknown key reveal.budgte; did you mean budget?"),
        ("name.first=x", "--set name.first=x: name is a value, not a section"),
        ("reveal.budget=[1", "--set reveal.budget=[1: is no YAML"),
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


# What follows from the task


SEQUENCES = {"name": "x", "task": {"name": "extraction"}}


def refusal(content):
    with pytest.raises(InputError) as caught:
        validate(content, "x.yaml")
    message = str(caught.value)
    assert message.startswith("x.yaml: ")
    assert "\n" not in message
    return message


def test_the_task_says_the_recipe_and_the_recipe_the_methods():
    given, behaviour = validate(SEQUENCES, ""), load_config(ROOT / "configs" / "demo.yaml")
    assert (given.recipe, behaviour.recipe) == ("unlearn-sequences", "reveal-and-release")
    assert (given.own_method, behaviour.own_method) == ("icu", "release")
    assert given.compared == ["kumpr", "kl", "dpo", "llmu"]
    assert behaviour.compared == ["pem_external", "ext_sub", "dpo", "rmu", "cmd"]
    # The same method, as each recipe runs it.
    one, other = (config.methods.of("dpo").training for config in (given, behaviour))
    assert (one.parameters, other.parameters) == ("full", "lora")
    asked = validate({**SEQUENCES, "recipe": "reveal-and-release"}, "")
    assert asked.own_method == "release"


def test_a_config_keeps_its_digest_through_its_own_values():
    config = validate({**SEQUENCES, "methods": {"run": ["npo"], "icu": {"grid": [{}]}}}, "")
    again = validate(config.content(), "")
    keys = ("methods", "methods.icu", "task", "memorise")
    assert again.fingerprint(*keys) == config.fingerprint(*keys)
    assert again.methods.of("icu").grid == [{}]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"reveal": {}}, "reveal: the recipe unlearn-sequences does not read it"),
        ({"preset": "papre"}, "preset: found 'papre', Input should be 'default', 'paper' or"),
        (
            {"sweep": {"over": {"objective.alpha": [1]}}},
            "unknown key sweep.over.objective.alpha",
        ),
        ({"sweep": {"over": {"schedule": ["linear"]}}}, "sweep.over: training.schedule linear"),
        ({"sweep": {"method": "ext_sub"}}, "sweep.method: found ext_sub, which is not trained by"),
        ({"sweep": {"method": "uci"}}, "method uci: unknown; expected one of release, icu"),
        (
            {"methods": {"kl": {"training": {"schedule": "linear"}}}},
            "methods.kl.training.schedule linear: epochs end by what is recalled",
        ),
        (
            {"methods": {"kl": {"training": {"objective": {"name": "icu"}}}}},
            "methods.kl.training.objective.name: found icu, expected kl",
        ),
        (
            {"workers": {"zero_stage": 2, "offload": "weights"}},
            "workers: offload weights: found zero_stage 2; expected 3",
        ),
        ({"task": {"name": "extraction", "n": 60}}, "prefix_tokens 50 and n 60 together must not"),
        ({"task": {"name": "extraction", "prefix": 3}}, "unknown key task.prefix; did you mean"),
        ({"task": {"name": "extractoin"}}, "task extractoin: unknown; expected one of toxicity, "),
    ],
)
def test_what_unlearning_by_epochs_cannot_have_is_named(more, message):
    assert message in refusal({**SEQUENCES, **more})
