"""Which weights are trained, theta0 within the model, and what is saved of it."""

import copy
import json

import pytest
import torch
from peft import PeftModel
from pydantic import ValidationError
from transformers import AutoModelForCausalLM

from rnr_dist.config.release import Release
from rnr_dist.config.training import Training
from rnr_dist.errors import InputError
from rnr_dist.train.collate import Example, pad
from rnr_dist.train.passes import label_states
from rnr_dist.train.trainable import make_trained
from rnr_dist.types import Adapter, ModelRef
from rnr_dist.weights.checkpoints import checkpoint_digest
from rnr_dist.weights.composition import adapter_digest, add_to_model, load_adapter

pytestmark = pytest.mark.usefixtures("one_thread")

TOKENS = torch.arange(24).reshape(2, 12) * 7 % 64
LORA = Training(rank=2, alpha=4, dropout=0.5, target_modules=["q_proj"], layers=[1])
FULL = Training(parameters="full")
MATRICES = Training(parameters="matrices", target_modules=["q_proj", "v_proj", "down_proj"])


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def checkpoint(request, tmp_path_factory, tiny_llama):
    dtype = getattr(torch, request.param)
    return tiny_llama(tmp_path_factory.mktemp("base"), dtype=dtype)


@pytest.fixture
def model(checkpoint):
    return AutoModelForCausalLM.from_pretrained(checkpoint)


@pytest.fixture
def base(checkpoint):
    return ModelRef(str(checkpoint), checkpoint_digest(checkpoint))


@torch.no_grad()
def logits(model):
    return model(TOKENS).logits


def trained_and_moved(model, training, base):
    trained = make_trained(model, training, base, 0)
    with torch.no_grad():
        for weight in trained.model.parameters():
            if weight.requires_grad:
                weight.add_(0.1 * torch.randn_like(weight))
    trained.model.train()
    return trained


@pytest.mark.parametrize("training", [LORA, MATRICES], ids=["lora", "matrices"])
def test_theta0_is_the_model_with_what_is_trained_switched_off(model, base, training):
    before = logits(copy.deepcopy(model).eval())
    trained = trained_and_moved(model, training, base)
    weights = {name: w for name, w in trained.model.named_parameters() if w.requires_grad}
    with trained.reference():
        assert torch.equal(trained.model(TOKENS).logits, before)
        assert not trained.model(TOKENS).logits.requires_grad
    assert trained.model.training
    found = {name: w for name, w in trained.model.named_parameters() if w.requires_grad}
    assert found.keys() == weights.keys()
    assert not torch.equal(logits(trained.model.eval()), before)
    with trained.reference():
        pass
    assert not trained.model.training


def test_layers_are_chosen_by_name_and_number(model, base):
    def names(training):
        trained = make_trained(copy.deepcopy(model), training, base, 0)
        return {
            name.removeprefix("base_model.model.model.layers.").removeprefix("model.layers.")
            for name, weight in trained.model.named_parameters()
            if weight.requires_grad
        }

    ab = {f"1.self_attn.q_proj.lora_{side}.default.weight" for side in "AB"}
    assert names(LORA) == ab
    chosen = MATRICES.model_copy(update={"layers": [0]})
    assert names(chosen) == {
        "0.self_attn.q_proj.weight",
        "0.self_attn.v_proj.weight",
        "0.mlp.down_proj.weight",
    }


@pytest.mark.parametrize(
    ("update", "message"),
    [
        ({"layers": [0, 2]}, "no q_proj, v_proj, down_proj in layer 2"),
        ({"target_modules": ["proj"]}, "no proj in any layer"),
        ({"target_modules": ["embed_tokens"]}, "embed_tokens is a Embedding"),
    ],
)
def test_layers_that_cannot_be_trained_are_named(model, base, update, message):
    with pytest.raises(InputError, match=message):
        make_trained(model, MATRICES.model_copy(update=update), base, 0)


def test_trained_matrices_are_fp32_and_saved_to_the_bit(model, base, tmp_path):
    trained = trained_and_moved(model, MATRICES, base)
    trained.save(tmp_path)
    factors = load_adapter(tmp_path)
    assert len(factors) == 6
    before = AutoModelForCausalLM.from_pretrained(base.checkpoint)
    for name, (a, b, scaling) in factors.items():
        weight, old = trained.model.get_submodule(name).weight, before.get_submodule(name).weight
        assert weight.dtype == torch.float32
        assert scaling == 1
        assert torch.equal(b @ a, weight.detach() - old.float())
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (32, 32)


def test_saved_matrices_compose_to_the_trained_model(model, base, tmp_path):
    trained = trained_and_moved(model, MATRICES, base)
    trained.save(tmp_path)
    adapter = Adapter(str(tmp_path), adapter_digest(tmp_path), base.digest, "forget")
    composed = AutoModelForCausalLM.from_pretrained(base.checkpoint)
    add_to_model(composed, base.plus(1.0, adapter).terms)
    wanted = logits(trained.model.eval())
    torch.testing.assert_close(logits(composed.eval()), wanted)
    if wanted.dtype == torch.float32:
        plain = AutoModelForCausalLM.from_pretrained(base.checkpoint)
        torch.testing.assert_close(logits(PeftModel.from_pretrained(plain, tmp_path)), wanted)


def test_a_training_says_what_cannot_be():
    with pytest.raises(ValidationError, match="orthogonal needs parameters lora"):
        Training(objective={"name": "orthogonal"}, parameters="matrices")
    with pytest.raises(
        ValidationError, match=r"forget\.objective\.name dpo needs more than forget"
    ):
        Release(forget=Training(objective={"name": "dpo"}))
    Release(retain=Training(objective={"name": "orthogonal"}))


@pytest.mark.parametrize("checkpoint", ["float32"], indirect=True)
def test_theta0_speaks_as_the_model_did_whatever_it_computes_in(model, base):
    """Full training keeps theta0's head in the format that autocast would compute it in."""
    example = Example((3, 14, 15, 9, 26), 2)
    rows = pad([example])
    for computed in (torch.bfloat16, torch.float32):
        trained = make_trained(copy.deepcopy(model), FULL, base, 0)
        with torch.autocast("cpu", torch.bfloat16, enabled=computed is torch.bfloat16):
            trained.remember([example])
            states = label_states(trained.model, rows)
            before = trained.head(states)
            torch.nn.init.zeros_(trained.model.get_output_embeddings().weight)  # training
            found = trained.reference_head(trained.reference_states(rows))
        assert found.dtype == before.dtype == computed
        assert torch.equal(found, before) and found.any()
