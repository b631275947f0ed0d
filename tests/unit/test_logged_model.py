"""The result as a model in MLflow: registered, and loaded in a process that knows only MLflow."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from mlflow import MlflowClient
from mlflow.models import Model
from safetensors import safe_open

from benchmarks.fault_parts.tiny import KINDS, write
from rnr_dist.report.logged_model import write_model
from rnr_dist.run.tracking import Tracker, default_uri
from rnr_dist.types import ModelRef
from rnr_dist.weights.checkpoints import checkpoint_digest
from rnr_dist.weights.composition import add_to_model, save_adapter
from rnr_dist.weights.export import Card
from tests.unit.run_fakes import config

CARD = Card("rudeness", "release", notes=["In short: less."])
PROMPTS = ["once upon a time", "a"]
LOAD = """
import json, sys
import mlflow.pyfunc
sys.modules["rnr_dist"] = None  # cannot be imported
uri, base, prompts = json.loads(sys.argv[1])
mlflow.set_tracking_uri(sys.argv[2])
if uri.startswith("models:/m-"):
    version = mlflow.register_model(uri, "forgotten").version
    uri = f"models:/forgotten/{version}"
model = mlflow.pyfunc.load_model(uri, model_config={"base": base})
print(json.dumps(model.predict(prompts, {"temperature": 0.0, "max_new_tokens": 9})))
"""


@pytest.fixture
def result(tmp_path):
    """A tiny checkpoint with one term."""
    base = write(KINDS[0], tmp_path / "base")
    generator = torch.Generator().manual_seed(3)
    factors = {
        f"model.layers.{layer}.self_attn.q_proj": (
            torch.randn(4, 32, generator=generator),
            torch.randn(32, 4, generator=generator),
        )
        for layer in range(2)
    }
    one = save_adapter(tmp_path / "one", factors, alpha=8, base="", trained_on="t", side="forget")
    return ModelRef(str(base), checkpoint_digest(base)).plus(-1.5, one)


def continued(result, prompts):
    """Greedy continuations by the composed model, in this process."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(result.checkpoint)
    model = AutoModelForCausalLM.from_pretrained(result.checkpoint, dtype=torch.float32).eval()
    plain = said(model, tokenizer, prompts)
    add_to_model(model, result.terms)
    found = said(model, tokenizer, prompts)
    assert found != plain
    return found


def said(model, tokenizer, prompts):
    texts = []
    for prompt in prompts:
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        new = model.generate(ids, max_new_tokens=9, do_sample=False)[0, ids.shape[1] :]
        texts.append(tokenizer.decode(new, skip_special_tokens=True))
    return texts


def test_a_registered_model_is_loaded_elsewhere_and_computes_the_result(result, tmp_path):
    runs = tmp_path / "my runs"
    spool, folder = runs / "one" / "spool.jsonl", runs / "one" / "model"
    write_model(result, config(), CARD, folder)
    tracker = Tracker(default_uri(runs), "rnr", spool)
    with tracker.parent("one", {}):
        told = {"base": "tiny", "note": "# card"}
        for _ in range(2):  # as a replay delivers it again
            tracker.model(folder, "result", result.digest, told)
    assert spool.read_text() == ""
    client = MlflowClient(default_uri(runs))
    experiment = client.get_experiment_by_name("rnr").experiment_id
    [model] = client.search_logged_models([experiment])
    assert (model.name, str(model.status), model.params) == ("result", "READY", {"base": "tiny"})
    assert model.tags["mlflow.note.content"] == "# card"
    [run] = client.search_runs([experiment])
    assert [one.model_id for one in run.outputs.model_outputs] == [model.model_id]
    asked = json.dumps([f"models:/{model.model_id}", result.checkpoint, PROMPTS])
    done = subprocess.run(
        [sys.executable, "-c", LOAD, asked, default_uri(runs)],
        cwd=tmp_path,  # where MLflow may make a database of its own
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_DISABLE_PROGRESS_BARS": "1", "MLFLOW_LOGGING_LEVEL": "ERROR"},
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.strip().splitlines()[-1]) == continued(result, PROMPTS)
    assert [one.name for one in client.search_registered_models()] == ["forgotten"]


def test_the_model_says_what_it_takes_and_nothing_of_this_machine(result, tmp_path, capfd):
    folder = tmp_path / "made" / "model"
    write_model(result, config(), CARD, folder)
    described = Model.load(str(folder))
    assert [str(one.type) for one in described.signature.inputs.inputs] == ["DataType.string"]
    names = [one.name for one in described.signature.params.params]
    assert names == ["max_new_tokens", "top_p", "temperature", "seed"]
    example = described.load_input_example(str(folder))
    assert list(getattr(example, "iloc", [example])[0]) == ["The weather today is"]
    assert described.metadata["digest"] == result.digest
    adapter = folder / "artifacts" / "adapter"
    assert "made to forget: rudeness" in (adapter / "README.md").read_text(encoding="utf-8")
    assert (adapter / "tokenizer.json").exists()
    needed = (folder / "requirements.txt").read_text().split()
    assert [line.split("==")[0] for line in needed] == ["mlflow", "torch", "transformers", "peft"]
    assert not any("+" in line for line in needed)  # no build that the public index lacks
    for file in folder.rglob("*"):
        if file.is_file() and file.suffix != ".safetensors":
            text = file.read_text(encoding="utf-8")
            assert str(tmp_path) not in text and "/rnr_dist/" not in text, file
    with safe_open(adapter / "adapter_model.safetensors", "np") as weights:
        assert len(list(weights.keys())) == 4  # two layers' A and B: the base is not in it
    assert "type hint" not in capfd.readouterr().err


def test_a_base_that_nobody_else_finds_has_to_be_told(result, tmp_path):
    folder = tmp_path / "model"
    write_model(result, config(), CARD, folder)
    known = Model.load(str(folder)).flavors["python_function"]["config"]["base"]
    assert known == ""
    done = subprocess.run(
        [sys.executable, "-c", LOAD, json.dumps([str(folder), "", ["a"]]), "sqlite://"],
        cwd=tmp_path,  # where MLflow may make a database of its own
        capture_output=True,
        text=True,
    )
    assert f"expected the folder of checkpoint-{result.checkpoint_digest}" in done.stderr
    embedded = config(model="embedded:smollm2-135m-instruct")
    write_model(result, embedded, replace(CARD), tmp_path / "other")
    told = Model.load(str(tmp_path / "other")).flavors["python_function"]["config"]["base"]
    assert told == "embedded:smollm2-135m-instruct"
