"""Frozen weights in four bits: which layers become bitsandbytes' and how; what is refused."""

import sys
import types

import pytest
import torch

from rnr_dist.config.schema import Config
from rnr_dist.config.training import Training
from rnr_dist.errors import InputError
from rnr_dist.train.quantised import quantise
from rnr_dist.weights import targets
from rnr_dist.weights.targets import require_trained
from tests.unit import quantised_fakes
from tests.unit.tiny_models import gpt_neo, llama

NF4 = Training(frozen="nf4")
SOURCE = {"source": "builtin:expository", "splits": {"final": 1}}
TASK = {"challenging": SOURCE, "ordinary": SOURCE, "in_domain": [SOURCE], "out_of_domain": [SOURCE]}


@pytest.fixture
def installed(monkeypatch):
    package = types.ModuleType("bitsandbytes")
    package.nn = quantised_fakes
    monkeypatch.setitem(sys.modules, "bitsandbytes", package)
    monkeypatch.setitem(sys.modules, "bitsandbytes.nn", quantised_fakes)
    monkeypatch.setattr(targets, "lacking", lambda modules: [])


@pytest.mark.parametrize("make", [llama, gpt_neo])
def test_all_linear_layers_but_the_head_are_packed(installed, make):
    model = make().bfloat16()
    kept = {"lm_head"} | {
        name for name, one in model.named_modules() if isinstance(one, torch.nn.Embedding)
    }
    ids, plain = torch.tensor([[3, 9, 4]]), dict(model.named_modules())
    wanted = model(ids).logits
    quantise(model, "cuda:1")
    for name, module in model.named_modules():
        if isinstance(plain[name], torch.nn.Linear) and name not in kept:
            assert type(module) is quantised_fakes.Linear4bit, name
            assert module.told == {"compute_dtype": torch.bfloat16, "quant_type": "nf4"}
            assert module.weight.told == {
                "quant_type": "nf4",
                "compress_statistics": True,
                "device": "cuda:1",
            }
            assert not module.weight.requires_grad
            assert module.bias is plain[name].bias
        else:
            assert module is plain[name]
    assert torch.equal(model(ids).logits, wanted)
    assert model.is_loaded_in_4bit


def test_without_the_package_one_sentence_says_so(tmp_path):
    llama().save_pretrained(tmp_path)
    with pytest.raises(
        InputError,
        match=r"release.forget.frozen: found nf4 and no package bitsandbytes; expected pip install",
    ):
        require_trained(tmp_path, NF4, "release.forget")
    require_trained(tmp_path, Training(), "release.forget")


def test_layers_that_lie_the_other_way_round_are_refused(installed, tmp_path):
    from transformers import GPT2Config, GPT2LMHeadModel

    GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=16)).save_pretrained(
        tmp_path
    )
    training = NF4.model_copy(update={"target_modules": ["c_attn"]})
    with pytest.raises(InputError, match=r"x.frozen: .*c_attn of .* is a Conv1D.*expected plain"):
        require_trained(tmp_path, training, "x")
    llama().save_pretrained(tmp_path / "llama")
    require_trained(tmp_path / "llama", NF4, "x")


@pytest.mark.parametrize("parameters", ["full", "matrices"])
def test_what_is_trained_is_not_frozen(parameters):
    with pytest.raises(ValueError, match=f"frozen nf4: found parameters {parameters}.*lora"):
        Training(frozen="nf4", parameters=parameters)


@pytest.mark.parametrize(
    ("sections", "key"),
    [
        ({"release": {"retain": {"frozen": "nf4"}}}, "release.retain"),
        (
            {"methods": {"run": ["npo"], "npo": {"training": {"frozen": "nf4"}}}},
            "methods.npo.training",
        ),
    ],
)
def test_packed_weights_are_not_divided(sections, key):
    with pytest.raises(ValueError, match=f"{key}.frozen nf4: found workers.zero_stage 3"):
        Config(name="x", task=TASK | {"name": "toxicity"}, workers={"zero_stage": 3}, **sections)
    Config(name="x", task=TASK | {"name": "toxicity"}, workers={"zero_stage": 2}, **sections)
