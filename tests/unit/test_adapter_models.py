"""A PEFT adapter folder as the model: base and adapter as one checkpoint, and no other base."""

import json
import shutil

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from rnr_dist.commands.check import check_inputs
from rnr_dist.config.file import load_config
from rnr_dist.errors import InputError
from rnr_dist.tasks.prompts import tokenizer_of
from rnr_dist.types import Adapter, ModelRef, Term
from rnr_dist.weights.adapters import BASE_DIGEST
from rnr_dist.weights.checkpoints import (
    check_model,
    checkpoint_digest,
    checkpoint_here,
    find_base,
    keep_base,
    resolve_model,
)
from rnr_dist.weights.composition import adapter_digest
from rnr_dist.weights.export import Card, export_adapter
from rnr_dist.weights.provenance import Origin

IDS = torch.tensor([[2, 3, 5, 7, 11, 13]])


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RNR_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def base(tmp_path, tiny_llama, tiny_tokenizer):
    folder = tiny_llama(tmp_path / "base")
    tiny_tokenizer(folder, 64)
    return folder


@pytest.fixture
def adapter(tmp_path, base):
    """As PEFT itself saves one."""
    model = AutoModelForCausalLM.from_pretrained(base)
    torch.manual_seed(1)
    model = get_peft_model(
        model, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    )
    model.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


def edited(folder, **keys):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **keys}))


def test_it_is_base_and_adapter_in_one(base, adapter):
    expected = logits(
        PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)
    )
    assert checkpoint_here(str(adapter)) is None  # before its first use
    ref = resolve_model(str(adapter))
    assert ref.terms == () and ref.checkpoint_digest != checkpoint_digest(base)
    found = logits(AutoModelForCausalLM.from_pretrained(ref.checkpoint))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(found, logits(AutoModelForCausalLM.from_pretrained(base)), atol=1e-2)
    # It is made once, and known where it is.
    assert str(checkpoint_here(str(adapter))) == ref.checkpoint
    before = {path: path.stat().st_mtime_ns for path in adapter.parent.rglob("*")}
    assert resolve_model(str(adapter)) == ref
    after = {path: path.stat().st_mtime_ns for path in adapter.parent.rglob("*")}
    assert {path for path in after if after[path] != before.get(path)} <= {adapter.parent / "cache"}


def test_its_own_tokenizer_counts(base, adapter, tiny_tokenizer):
    assert tokenizer_of(str(adapter), False).chat_template is None
    tiny_tokenizer(adapter, 64)
    settings = json.loads((adapter / "tokenizer_config.json").read_text())
    settings["chat_template"] = "{{ messages[0].content }}"
    (adapter / "tokenizer_config.json").write_text(json.dumps(settings))
    assert tokenizer_of(str(adapter), False).chat_template == "{{ messages[0].content }}"


def test_another_adapter_or_base_is_another_model(base, adapter, tiny_llama):
    first = resolve_model(str(adapter))
    edited(adapter, lora_alpha=32)
    second = resolve_model(str(adapter))
    assert first.checkpoint_digest != second.checkpoint_digest
    torch.manual_seed(5)
    model = AutoModelForCausalLM.from_pretrained(base)
    model.model.embed_tokens.weight.data += 1
    model.save_pretrained(base)
    assert resolve_model(str(adapter)).checkpoint_digest != second.checkpoint_digest


def test_the_base_of_an_export_is_known_by_its_digest(tmp_path, base, adapter):
    term = Term(1.0, Adapter(str(adapter), adapter_digest(adapter), "base", "forget"))
    ref = ModelRef(str(base), checkpoint_digest(base), (term,))
    export_adapter(ref, tmp_path / "exported", Card("x", "y", Origin(hub=str(base))))
    assert check_model(str(tmp_path / "exported")) == base
    assert resolve_model(str(tmp_path / "exported")).checkpoint_digest
    model = AutoModelForCausalLM.from_pretrained(base)
    model.model.embed_tokens.weight.data += 1
    model.save_pretrained(base)
    known = json.loads((tmp_path / "exported" / BASE_DIGEST).read_text())["checkpoint_digest"]
    for ask in (check_model, resolve_model):
        with pytest.raises(InputError) as refused:
            ask(str(tmp_path / "exported"))
        assert str(refused.value) == (
            f"{tmp_path / 'exported'}: found the base {base} of digest {checkpoint_digest(base)}; "
            f"expected {known}, which the adapter was made for"
        )
    check_model(str(adapter))  # which says of no digest


def test_a_base_that_is_named_by_its_digest_is_asked_for(tmp_path, base, adapter, monkeypatch):
    monkeypatch.chdir(tmp_path)
    known = checkpoint_digest(base)
    term = Term(1.0, Adapter(str(adapter), adapter_digest(adapter), "base", "forget"))
    exported = tmp_path / "exported"
    export_adapter(ModelRef(str(base), known, (term,)), exported, Card("x", "y"))
    for ask in (check_model, checkpoint_here, resolve_model):
        with pytest.raises(InputError) as refused:
            ask("./exported")
        assert str(refused.value) == (
            f"{exported / 'adapter_config.json'}: found the base checkpoint-{known}, which is a "
            "digest and no place, since the base has no name on a hub; expected "
            "base_model_name_or_path to be the folder of the checkpoint of digest " + known
        )
    edited(exported, base_model_name_or_path="./base")
    assert resolve_model("./exported").checkpoint_digest
    base.rename(tmp_path / f"checkpoint-{known}")  # a folder that lies here is a place
    edited(exported, base_model_name_or_path=f"checkpoint-{known}")
    assert check_model("./exported") == tmp_path / f"checkpoint-{known}"


def test_a_base_whose_layers_it_does_not_fit_is_refused_before_anything_is_made(
    tmp_path, base, adapter, tiny_llama
):
    tiny_llama(tmp_path / "wide", hidden=64)
    edited(adapter, base_model_name_or_path=str(tmp_path / "wide"))
    for ask in (check_model, resolve_model):
        with pytest.raises(InputError, match=r"adapter: found a delta \(32, 32\) for .*q_proj"):
            ask(str(adapter))
    assert not list((tmp_path / "cache").glob("adapter-*[0-9a-f]"))


def test_what_is_no_such_adapter_is_one_sentence(tmp_path, base, adapter):
    edited(adapter, base_model_name_or_path=str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match=r"adapter: its base: .*nowhere: no such folder"):
        check_model(str(adapter))
    edited(adapter, base_model_name_or_path=None)
    with pytest.raises(InputError, match="found no base_model_name_or_path; expected the folder"):
        check_model(str(adapter))
    edited(adapter, base_model_name_or_path="../base")
    assert check_model(str(adapter)).resolve() == base
    edited(adapter, alpha_pattern={"q_proj": 4}, base_model_name_or_path=str(base))
    with pytest.raises(InputError, match=r"with alpha_pattern .*; expected a plain LoRA"):
        check_model(str(adapter))
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(InputError, match=r"is no adapter; expected adapter_config"):
        check_model(str(adapter))


def test_a_run_finds_it_again_when_the_cache_was_emptied(tmp_path, adapter):
    run = tmp_path / "run"
    run.mkdir()
    keep_base(run, resolve_model(str(adapter)))
    shutil.rmtree(tmp_path / "cache")
    find_base(run, str(adapter))
    edited(adapter, lora_alpha=32)
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(InputError, match="expected the run's base checkpoint, digest"):
        find_base(run, str(adapter))


def test_the_whole_check_takes_it(place):
    model = AutoModelForCausalLM.from_pretrained(place / "model")
    get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(place / "own")
    config = load_config(place / "config.yaml", ["model=./own"])
    assert check_inputs(config).name == "toxicity"
    resolve_model("./own")
    check_inputs(config)
