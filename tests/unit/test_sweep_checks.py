"""Every place of a sweep is asked before anything starts, and a sentence names it."""

from pathlib import Path

import pytest
import yaml

from benchmarks.fault_parts import tiny
from rnr_dist.config.file import validate
from rnr_dist.config.training import Training
from rnr_dist.errors import InputError
from rnr_dist.methods.kl import Kl
from tests.unit.command_fakes import LLAMA, rnr

MODELS = Path(__file__).parents[1] / "data" / "models"
SETS = ("forget", "pool", "unseen", "tuning")
CONTENT = {
    "name": "small",
    "model": "./model",
    "task": {
        "name": "extraction",
        "prefix_tokens": 20,
        "max_tokens": 40,
        **{
            name: {"source": "builtin:records", "first": 100 * number, "count": 2}
            for number, name in enumerate(SETS)
        },
    },
    "engines": {"count": 1, "max_model_len": 256},
    "perplexity": {"window": 128, "stride": 64},
    "memorise": {"enabled": False},
}
RATES = {"learning_rate": [1e-5, 2e-5]}
BY_LORA = {"icu": {"training": {"parameters": "lora"}}}
RANKS = {"learning_rate": [1e-5, 2e-5], "rank": [8, 2048]}
CLUSTER = {"nodes": [{"cpus": 8, "gpus": 2, "gpu_gib": 80}]}


@pytest.fixture
def asked(tmp_path, monkeypatch, capsys):
    """A function that gives a config to a command: its exit code, and what it said."""
    monkeypatch.chdir(tmp_path)
    tiny.write(LLAMA, tmp_path / "model")
    (tmp_path / "cluster.yaml").write_text(yaml.safe_dump(CLUSTER), encoding="utf-8")

    def ask(command, *options, over=None, **sections):
        sweep = {"sweep": {"over": over}} if over else {}
        content = {**CONTENT, **sweep, **sections}
        (tmp_path / "config.yaml").write_text(
            yaml.safe_dump(content, sort_keys=False), encoding="utf-8"
        )
        capsys.readouterr()
        code = rnr(command, "config.yaml", *options)
        told = capsys.readouterr()
        assert not (tmp_path / "runs").exists()
        return code, told.err if code else told.out

    return ask


def sentence(answer):
    code, told = answer
    assert code == 2 and told.count("\n") == 1, told
    return told.removeprefix("rnr: ").removeprefix("config.yaml: ").strip()


@pytest.mark.parametrize("command", ["check", "sweep"])
def test_a_place_that_the_model_has_no_layer_for_is_named_with_its_values(asked, command):
    over = {"target_modules": [["q_proj"], ["q_proj", "q_prj"]], "learning_rate": [1e-5]}
    told = sentence(asked(command, over=over, methods=BY_LORA))
    place = "sweep.over[target_modules=['q_proj', 'q_prj'] learning_rate=1e-05]"
    assert told.startswith(f"{place}.target_modules: 'q_prj' is no layer of ")
    told = sentence(asked(command, over={"layers": [[0], [7]]}, methods=BY_LORA))
    assert told.startswith("sweep.over[layers=[7]].layers: 7 is no decoder layer of ")


def test_a_place_that_trains_all_weights_is_refused_where_engines_could_not_take_them(
    asked, monkeypatch
):
    def refusing(folder, key, trusted):
        raise InputError(f"{key}.parameters: refused")

    monkeypatch.setattr("rnr_dist.commands.trainings.require_reloadable", refusing)
    over = {"parameters": ["lora", "full"]}
    for command in ("check", "sweep"):
        told = sentence(asked(command, over=over, methods=BY_LORA))
        assert told == "sweep.over[parameters=full].parameters: refused"
    assert asked("check", over=RATES, methods=BY_LORA)[0] == 0
    # Of no concern to who wants no sweep: the default one trains what the method's training does.
    kept = {"icu": {"grid": [{"parameters": "lora"}]}}
    assert asked("check", methods=kept)[0] == 0
    assert sentence(asked("sweep", methods=kept)) == "methods.icu.training.parameters: refused"


@pytest.mark.parametrize(
    ("over", "told"),
    [
        ({"parameters": ["lora", "full"], **RATES}, "parameters=full learning_rate=1e-05"),
        ({**RATES, "batch_size": [1, 4096]}, "learning_rate=1e-05 batch_size=4096"),
    ],
)
def test_a_place_that_needs_more_memory_than_a_gpu_has_is_named(asked, over, told):
    """Of a model of which nothing is here but its config.json."""
    icu = {"training": {"parameters": "lora", "micro_batch_tokens": 10**6, "batch_size": 1}}
    gpus = {"engines": {**CONTENT["engines"], "gpus_each": 1}, "workers": {"gpus_each": 1}}
    on = ("--cluster", "cluster.yaml", "--model-config", f"{MODELS}/llama3_8b/config.json")
    code, lines = asked("check", *on, over=RATES, methods={"icu": icu}, **gpus)
    assert code == 0 and "sweep" not in lines
    line = sentence(asked("check", *on, over=over, methods={"icu": icu}, **gpus))
    assert line.startswith(f"sweep.over[{told}]: each of 1 training worker(s) needs about ")
    assert "cluster.yaml has 80.0 GiB in a GPU" in line


def test_the_method_that_is_swept_must_be_one_that_the_task_serves(asked, monkeypatch):
    monkeypatch.setattr(Kl, "needs", frozenset({"external"}))
    for command in ("check", "sweep"):
        told = sentence(asked(command, sweep={"method": "kl", "over": RATES}))
        assert told.startswith("method kl: needs external, which this task does not give")


@pytest.mark.parametrize(
    ("sections", "told"),
    [
        (
            {"sweep": {"over": {"rank": [8, 0]}}},
            "sweep.over.rank: found 0, Input should be greater than or equal to 1",
        ),
        (
            {"sweep": {"over": {"frozen": ["plain", "nf4"]}}},
            "sweep.over: frozen nf4: found parameters full, which trains weights themselves",
        ),
        (
            {"sweep": {"method": "kumpr", "over": {"objective.name": ["causal"]}}},
            "sweep.over: training.objective.name: found causal, expected kumpr",
        ),
        (
            {
                "sweep": {"over": {"frozen": ["nf4"], "rank": [8]}},
                "methods": BY_LORA,
                "workers": {"zero_stage": 3},
            },
            "sweep.over[frozen=nf4 rank=8].frozen nf4: found workers.zero_stage 3",
        ),
        (
            {
                "methods": {"icu": {**BY_LORA["icu"], "grid": [{}, {"frozen": "nf4"}]}},
                "workers": {"zero_stage": 3},
            },
            "methods.icu.grid.1.frozen nf4: found workers.zero_stage 3",
        ),
    ],
)
def test_a_place_that_no_config_may_hold_is_refused_by_every_command(asked, sections, told):
    for command in ("check", "sweep", "icu"):
        assert sentence(asked(command, **sections)).startswith(told)


def test_places_that_ask_for_the_same_are_asked_once():
    config = validate({**CONTENT, "sweep": {"over": RANKS}, "methods": BY_LORA}, "")
    assert list(config.swept) == [
        "methods.icu.training",
        "sweep.over[learning_rate=1e-05 rank=2048]",
    ]
    assert config.swept["methods.icu.training"].rank == Training().rank
