"""Whose weights an engine takes: by what configs mean, and refused before anything is trained."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, Llama4Config

from benchmarks.fault_parts import tiny
from rnr_dist.commands.check import check_architecture, check_methods
from rnr_dist.config.file import validate
from rnr_dist.errors import InputError
from rnr_dist.tasks.task import make_task
from rnr_dist.weights.architecture import architecture, require_reloadable
from rnr_dist.weights.checkpoints import checkpoint_digest

ROOT = Path(__file__).parents[2]
KINDS = {kind.name: kind for kind in tiny.KINDS}
NAMES = ("Mistral, short window", "Gemma 3", "GPT-2", "OPT-350m")
# What is in files of a hub and not in those that are written today.
OLD = {
    "transformers_version": "4.9.0",
    "torch_dtype": "float32",
    "do_sample": True,
    "max_length": 50,
    "gradient_checkpointing": False,
    "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
}


def as_on_a_hub(folder):
    """The config of a checkpoint without defaults, and with the keys of another version."""
    path = folder / "config.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    kept = ("model_type", "architectures", "hidden_size", "n_embd", "layer_types")
    kind = type(AutoModelForCausalLM.from_pretrained(folder).config)
    defaults = kind().to_dict()
    sparse = {
        key: value for key, value in content.items() if key in kept or defaults.get(key) != value
    }
    if "rope_parameters" in sparse:
        rope = sparse.pop("rope_parameters")
        if "rope_theta" in rope:  # of one kind for all layers
            sparse |= {"rope_theta": rope["rope_theta"], "rope_scaling": None}
        else:
            sparse["rope_parameters"] = rope
    path.write_text(json.dumps({**sparse, **OLD}), encoding="utf-8")
    return content.keys() - sparse.keys()


@pytest.mark.parametrize("name", NAMES)
def test_a_config_of_a_hub_means_what_it_means_when_it_is_written_here(name, tmp_path, one_thread):
    base = tiny.write(KINDS[name], tmp_path / "base")
    assert len(as_on_a_hub(base)) > 5
    model = AutoModelForCausalLM.from_pretrained(base)
    model.save_pretrained(tmp_path / "trained")
    written = json.loads((tmp_path / "trained" / "config.json").read_text(encoding="utf-8"))
    assert written.keys() ^ json.loads((base / "config.json").read_text(encoding="utf-8")).keys()
    assert architecture(tmp_path / "trained") == architecture(base)
    require_reloadable(base, "memorise.training")


@pytest.mark.parametrize(
    "changed",
    [
        {"intermediate_size": 64},
        {"rms_norm_eps": 1e-3},
        {"rope_theta": 5e5},
        {"sliding_window": 9},
        {"architectures": ["LlamaForCausalLM"]},
    ],
)
def test_what_computes_otherwise_is_another_architecture(tmp_path, changed, one_thread):
    folder = tiny.write(KINDS["Mistral, short window"], tmp_path)
    as_on_a_hub(folder)
    before, path = architecture(folder), folder / "config.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**content, **changed}), encoding="utf-8")
    assert architecture(folder) != before


RELOAD = """
import asyncio, sys
from pathlib import Path
from rnr_dist.config.engines import Engines
from rnr_dist.generate.actor import Generator
from rnr_dist.types import ModelRef
base, trained, other = (ModelRef(*word.split("=")) for word in sys.argv[1:])
generator = Generator(Engines(backend="transformers", max_model_len=64), base, 0)
print(asyncio.run(generator.load(trained)) == [trained.digest])
try:
    asyncio.run(generator.load(other))
except ValueError as error:
    print("another checkpoint" in str(error), Path(other.checkpoint).name in str(error))
"""


def test_an_engine_takes_weights_whose_config_is_written_otherwise(tmp_path, one_thread):
    base = tiny.write(KINDS["Llama"], tmp_path / "base")
    as_on_a_hub(base)
    model = AutoModelForCausalLM.from_pretrained(base)
    with torch.no_grad():
        model.get_output_embeddings().weight.add_(1)
    model.save_pretrained(tmp_path / "trained")
    for path in base.glob("tokenizer*"):
        (tmp_path / "trained" / path.name).write_bytes(path.read_bytes())
    tiny.write(KINDS["Qwen2"], tmp_path / "other")
    folders = [base, tmp_path / "trained", tmp_path / "other"]
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", RELOAD]
        + [f"{folder}={checkpoint_digest(folder)}" for folder in folders],
        env=os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert ended.stdout.split() == ["True", "True", "True"], ended.stderr


# Before anything starts


@pytest.fixture
def composite(tmp_path):
    """A model of which transformers loads the text part alone: written again, it is another."""
    llama = tiny.write(KINDS["Llama"], tmp_path / "llama")
    text = json.loads((llama / "config.json").read_text(encoding="utf-8"))
    small = {key: text[key] for key in tiny.ROTARY if key in text}
    whole = Llama4Config(text_config={**small, "num_local_experts": 1, "vocab_size": 97})
    whole.architectures = ["Llama4ForCausalLM"]
    whole.save_pretrained(llama)
    return llama


def config_of(model, **sections):
    sets = ("forget", "pool", "unseen", "tuning")
    task = {
        name: {"source": "builtin:records", "first": 100 * number, "count": 2}
        for number, name in enumerate(sets)
    }
    task |= {"name": "extraction", "prefix_tokens": 20, "max_tokens": 40}
    engines = {"count": 1, "max_model_len": 256, **sections.pop("engines", {})}
    return validate(
        {
            "name": "small",
            "model": str(model),
            "task": task,
            "engines": engines,
            "perplexity": {"window": 128, "stride": 64},
            **sections,
        },
        "config.yaml",
    )


def test_a_model_that_is_written_as_another_one_is_refused(composite):
    with pytest.raises(InputError) as refused:
        require_reloadable(composite, "memorise.training")
    sentence = str(refused.value)
    assert sentence.startswith(f"memorise.training.parameters: found full, but {composite} is wri")
    assert "\n" not in sentence and len(sentence) < 400


@pytest.mark.parametrize(
    ("sections", "key"),
    [
        ({}, "memorise.training"),
        ({"memorise": {"enabled": False}}, "methods.icu.training"),
        (
            {
                "memorise": {"enabled": False},
                "methods": {"icu": {"training": {"parameters": "lora"}}},
            },
            "methods.kumpr.training",
        ),
    ],
)
def test_each_training_of_all_weights_is_asked_for_before_a_start(
    tmp_path, monkeypatch, sections, key
):
    """By the checks of the recipe, and of the methods beside it."""
    from rnr_dist.commands import trainings

    folder = tiny.write(KINDS["Llama"], tmp_path / "model")
    asked = []
    monkeypatch.setattr(
        trainings, "require_reloadable", lambda folder, key, trusted: asked.append(key)
    )
    config = config_of(folder, **sections)
    check_architecture(config, folder)
    check_methods(config, make_task(config))
    assert asked[0] == key
    assert asked[-1] == "methods.llmu.training"


BY_LORA = {"parameters": "lora"}
WHOLE = {"parameters": "full"}


@pytest.mark.parametrize(
    ("icu", "asked"),
    [
        ({"grid": [BY_LORA]}, []),  # no place trains all weights, though the training would
        ({"training": BY_LORA, "grid": [{}, WHOLE]}, ["methods.icu.grid.1"]),
        ({"grid": [BY_LORA, {"learning_rate": 1e-4}, {"rank": 4}]}, ["methods.icu.training"]),
    ],
)
def test_the_places_of_a_grid_are_asked_for_what_they_train(tmp_path, monkeypatch, icu, asked):
    from rnr_dist.commands import trainings

    folder = tiny.write(KINDS["Llama"], tmp_path / "model")
    found = []
    monkeypatch.setattr(
        trainings, "require_reloadable", lambda folder, key, trusted: found.append(key)
    )
    config = config_of(folder, memorise={"enabled": False}, methods={"icu": icu, "run": ["icu"]})
    check_architecture(config, folder)
    assert found == asked
    check_methods(config, make_task(config))
    assert found == 2 * asked


def test_a_place_of_a_grid_is_refused_as_a_training_is(composite, tmp_path):
    place = {"training": BY_LORA, "grid": [WHOLE]}
    given = {"memorise": {"enabled": False}, "methods": {"icu": place, "run": ["icu"]}}
    with pytest.raises(InputError, match=r"^methods\.icu\.grid\.0\.parameters: found full, but"):
        check_methods(config_of(composite, **given), make_task(config_of(composite, **given)))
    folder = tiny.write(KINDS["Llama"], tmp_path / "model")
    odd = {"training": BY_LORA, "grid": [{}, {"target_modules": ["q_prj"]}]}
    given["methods"] = {"icu": odd, "run": ["icu"]}
    for asked in (check_architecture, lambda config, _: check_methods(config, make_task(config))):
        with pytest.raises(InputError, match=r"^methods\.icu\.grid\.1\.target_modules: 'q_prj'"):
            asked(config_of(folder, **given), folder)
    lora = config_of(folder, engines={"weights": "lora", "gpus_each": 1}, **given)
    lora.methods.of("icu").grid[1] = WHOLE
    with pytest.raises(InputError, match=r"found lora, but methods\.icu\.grid\.1 trains all"):
        check_architecture(lora, folder)


def test_engines_with_adapters_beside_the_base_cannot_take_whole_models(tmp_path):
    folder = tiny.write(KINDS["Llama"], tmp_path / "model")
    config = config_of(folder, engines={"weights": "lora", "gpus_each": 1})
    with pytest.raises(InputError, match=r"^engines\.weights: found lora, but memorise\.training"):
        check_architecture(config, folder)


def test_what_is_memorised_by_adapters_is_checked_as_every_training(tmp_path):
    folder = tiny.write(KINDS["Llama"], tmp_path / "model")
    by_lora = {"training": {"parameters": "lora", "target_modules": ["q_prj"]}}
    with pytest.raises(InputError, match=r"^memorise\.training\.target_modules: 'q_prj' is no lay"):
        check_architecture(config_of(folder, memorise=by_lora), folder)
