"""Values of a config: whole and finite numbers, names that fit into a folder, bounds everywhere."""

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from rnr_dist.config.base import Section
from rnr_dist.config.file import load_config, load_study, validate
from rnr_dist.config.registry import METHODS, method_class
from rnr_dist.config.schema import Config
from rnr_dist.config.study import Study
from rnr_dist.errors import InputError
from rnr_dist.tasks import TASKS

ROOT = Path(__file__).parents[2]
DEMO = yaml.safe_load((ROOT / "configs" / "demo.yaml").read_text(encoding="utf-8"))
SEQUENCES = {"name": "x", "task": {"name": "extraction"}}


@pytest.fixture
def refusal(tmp_path):
    """The one sentence of a small config with `more` in it, and overrides."""

    def refused(more, *overrides):
        path = tmp_path / "c.yaml"
        content = yaml.safe_dump({"task": DEMO["task"]}, allow_unicode=True)
        name = "" if "name:" in more else "name: x\n"
        path.write_text(f"{name}{content}{more}\n", encoding="utf-8")
        with pytest.raises(InputError) as caught:
            load_config(path, list(overrides))
        message = str(caught.value)
        assert "\n" not in message and len(message) < 600
        return message

    return refused


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("seed: yes", "seed: found 'yes', Input should be a valid integer"),
        ("seed: true", "seed: found True, Input should be a valid integer"),
        ("seed: 010", "seed: found '010', Input should be a valid integer"),
        ("seed: 1:30", "seed: found '1:30', Input should be a valid integer"),
        ("seed: '5'", "seed: found '5', Input should be a valid integer"),
        ("seed: 1.0", "seed: found 1.0, Input should be a valid integer"),
        ("seed: -1", "seed: found -1, Input should be greater than or equal to 0"),
        ("seed: 2147483648", "seed: found 2147483648, Input should be less than"),
        (f"seed: {'9' * 5000}", "seed: found '99999"),
        ("reveal: {arms: 1e9}", "reveal.arms: found 1000000000.0, Input should be a valid int"),
        ("reveal: {arms: 1000000000}", "reveal.arms: found 1000000000, Input should be less than"),
        ("reveal: {hidden: 1000000}", "reveal.hidden: found 1000000, Input should be less than"),
        ("reveal: {exploration: .inf}", "reveal.exploration: found inf, Input should be a finite"),
        ("reveal: {ridge: .nan}", "reveal.ridge: found nan, Input should be a finite number"),
        ("engines: {kv_cache_gib: 1e400}", "engines.kv_cache_gib: found inf, Input should be a fi"),
        ("engines: {extra: {swap_space: .nan}}", "engines.extra: swap_space is nan; expected fin"),
        ("engines: {extra: {a: [1, {b: -1e400}]}}", "engines.extra: a.1.b is -inf; expected fin"),
        ("reveal: {ridge: true}", "reveal.ridge: found True, Input should be a valid number"),
        ("reveal: {ridge: 1e300}", "reveal.ridge: found 1e+300, Input should be less than"),
        ("release: {forget: {learning_rate: .inf}}", "learning_rate: found inf, Input should be a"),
        ("trust_remote_code: 1", "trust_remote_code: found 1, Input should be a valid boolean"),
        ("trust_remote_code: yes", "trust_remote_code: found 'yes', Input should be a valid bool"),
        ("workers: {count: '2'}", "workers.count: found '2', Input should be a valid integer"),
        ("release: {forget: {target_modules: []}}", "target_modules: found [], List should have"),
        ("methods: {cmd: {grid: [{learning_rate: .inf}]}}", "learning_rate: found inf, Input"),
        ("recipe: [x]", "recipe: found ['x'], Input should be"),
        ("preset: [x]", "preset: found ['x'], which the recipe"),
        ("methods: {run: [5]}", "methods.run.0: found 5, Input should be a valid string"),
        ("methods: {run: [[cmd]]}", "methods.run.0: found ['cmd'], Input should be a valid string"),
        ("methods: {5: {}}", "methods.5"),
        ("5: {}", "5"),
        (
            "methods: {cmd: {grid: [{objective: 5, objective.retain: 1}]}}",
            "found objective.retain beside objective, which is a value",
        ),
        (f"{'x' * 900}: 1", "unknown key xxx"),
        (f"model: [{'x, ' * 500}x]", "model: found ['x', 'x'"),
        ("tracking: {experiment: ''}", "tracking.experiment: found '', String should have"),
        ("evaluate: {others: {" + "a" * 101 + ": ./m}}", "found the name 'aaaa"),
    ],
)
def test_a_value_of_another_kind_or_size_is_named_with_what_was_found(refusal, more, message):
    assert message in refusal(more)


def test_a_number_of_a_task_of_ones_own_is_finite_too():
    class Own(Section):
        threshold: float = 0.5
        places: list[float] = []  # noqa: RUF012

    for values, place in ({"threshold": 1e400}, "threshold"), ({"places": [0.0, 1e400]}, "places"):
        with pytest.raises(ValidationError, match=rf"{place}[\s\S]*should be a finite number"):
            Own.model_validate(values)


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "a/b",
        "/x",
        r"a\b",
        "..",
        ".x",
        "x.",
        "",
        " x",
        "x" * 151,
        "ü" * 76,
        r"a\nb",
        r"a\eb",
    ],
)
def test_a_name_that_would_leave_the_runs_folder_is_refused(refusal, name):
    quoted = f'"{name}"' if name != r"a\b" else f"'{name}'"
    assert ".yaml: name: found " in refusal(f"name: {quoted}")


@pytest.mark.parametrize("name", ["demo", "a=b", "Süßes #1 50%", "模型", "x" * 150, "a..b"])
def test_other_names_are_kept(name):
    assert validate({**SEQUENCES, "name": name}, "").name == name


def test_a_study_s_name_and_seeds_are_as_strict(tmp_path):
    path = tmp_path / "s.yaml"
    for study, message in (
        ("study: ../x\nconfig: c", "study: found '../x', expected a name"),
        ("study: x\nconfig: c\nseeds: [1, yes]", "seeds.1: found 'yes', Input should be a valid"),
        ("study: x\nconfig: c\nstudy: y", "line 3: found the key 'study' a second time"),
        ("study: x\nconfig: c\nvariants: {" + "a" * 101 + ": {}}", "found the name 'aaa"),
    ):
        path.write_text(study, encoding="utf-8")
        with pytest.raises(InputError) as caught:
            load_study(path)
        assert message in str(caught.value)


def test_a_sweep_has_an_end():
    over = {"learning_rate": [1e-5 * (1 + n) for n in range(40)], "objective.kl_weight": [1] * 40}
    with pytest.raises(InputError, match="sweep: over: found 1600 combinations"):
        validate({**SEQUENCES, "sweep": {"over": over}}, "")
    with pytest.raises(InputError, match="sweep: over: found 0 combinations"):
        validate({**SEQUENCES, "sweep": {"over": {"learning_rate": []}}}, "")


def test_a_byte_order_mark_is_no_part_of_a_config(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(SEQUENCES), encoding="utf-8-sig")
    assert load_config(path).name == "x"


def test_an_override_of_one_place_leaves_its_alias_alone(tmp_path):
    path = tmp_path / "c.yaml"
    shared = "release: {mu0: &c {low: 1, high: 2}, mu: *c}\n"
    path.write_text(yaml.safe_dump({"name": "x", "task": DEMO["task"]}) + shared, encoding="utf-8")
    found = load_config(path, ["release.mu0.high=3"]).release
    assert (found.mu0.high, found.mu.high) == (3, 2)


def test_settings_are_plain_values_and_are_not_shared_between_runs(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump({"name": "x", "task": DEMO["task"]}), encoding="utf-8")
    variant = {"release.mu0": {"low": 1, "high": 2}, "release.mu0.high": 3}
    variant["reveal.prompts"] = ["Say \U0001f600 \u2028 #1: 'x' ${HOME}"]
    found = load_config(path, settings=variant)
    assert (found.release.mu0.high, variant["release.mu0"]["high"]) == (3, 2)
    assert found.reveal.prompts == variant["reveal.prompts"]
    with pytest.raises(InputError, match=r"^seed\.x: seed is a value, not a section"):
        load_config(path, settings={"seed": 1, "seed.x": 2})


def _sections():
    """Every section of any config: of all tasks, methods and objectives too."""
    for known in TASKS.values():
        module, _, name = known.partition(":")
        __import__(module)
    for name in METHODS:
        method_class(name)
    found, waiting = [], [Section]
    while waiting:
        waiting += waiting.pop(0).__subclasses__()
        found += waiting[:1]
    return [one for one in dict.fromkeys(found) if one.__module__.startswith("rnr_dist.")]


def _numbers(schema, path=()):
    """(path, kind, schema) of each number and truth value in one of pydantic's core schemas."""
    if isinstance(schema, list | tuple):
        for number, inner in enumerate(schema):
            yield from _numbers(inner, (*path, number))
    elif isinstance(schema, dict):
        if schema.get("type") in ("int", "float", "bool"):
            yield path, schema["type"], schema
        for key, inner in schema.items():
            if key not in ("default", "metadata"):
                yield from _numbers(inner, (*path, key))


def test_every_number_of_every_section_is_strict_and_has_bounds():
    sections = _sections()
    assert len(sections) > 30 and {Config, Study} <= set(sections)
    numbers = [
        (f"{section.__name__}: {path}", kind, schema)
        for section in sections
        for path, kind, schema in _numbers(section.__pydantic_core_schema__)
    ]
    assert len(numbers) > 100
    loose = [
        place
        for place, kind, schema in numbers
        if not schema.get("strict")
        or (kind != "bool" and not {"ge", "gt"} & schema.keys())
        or (kind != "bool" and not {"le", "lt"} & schema.keys())
        or (kind == "float" and schema.get("allow_inf_nan", True))
    ]
    assert not loose


def test_a_section_refuses_infinity_in_python_too():
    with pytest.raises(ValidationError):
        Config.model_validate({**SEQUENCES, "engines": {"kv_cache_gib": float("inf")}})
