"""Every way to compose Eq. 1 must give the same logits; what does not fit must be refused."""

from __future__ import annotations

import json
import resource
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from rnr_dist.errors import InputError
from rnr_dist.types import Adapter, ModelRef
from rnr_dist.weights import composition
from rnr_dist.weights.checkpoints import checkpoint_digest

TOLERANCE = 1e-4
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
TOKENS = torch.arange(48).reshape(4, 12) * 7 % 64


def delta(terms, module):
    """(out, in) sum of the terms' deltas of one module."""
    a, b = composition.stack(terms)[module]
    return b @ a


def lora(checkpoint: Path, folder: Path, seed: int, modules: list[str], **options) -> Adapter:
    """A LoRA that PEFT itself made and wrote, with a random B instead of zeros."""
    torch.manual_seed(seed)
    config = LoraConfig(task_type="CAUSAL_LM", target_modules=modules, **options)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(checkpoint), config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.2)
    model.save_pretrained(folder)
    return Adapter(str(folder), composition.adapter_digest(folder), "base", "forget")


@pytest.fixture
def checkpoint(tmp_path, tiny_llama):
    return tiny_llama(tmp_path / "base")


@pytest.fixture
def base(checkpoint):
    return ModelRef(str(checkpoint), checkpoint_digest(checkpoint))


@pytest.fixture
def mixed(checkpoint, tmp_path, base):
    """Phi0 - 1.5 d1 + 0.7 d2 - 0.4 d3: other ranks, other modules, and one rsLoRA."""
    one = lora(checkpoint, tmp_path / "one", 1, ATTENTION, r=4, lora_alpha=8)
    two = lora(
        checkpoint,
        tmp_path / "two",
        2,
        ["q_proj", "down_proj"],
        r=2,
        lora_alpha=3,
        use_rslora=True,
    )
    three = lora(checkpoint, tmp_path / "three", 3, ["v_proj", "gate_proj"], r=3, lora_alpha=3)
    return base.plus(-1.5, one).plus(0.7, two).plus(-0.4, three)


@torch.no_grad()
def logits(model) -> torch.Tensor:
    return model.eval()(TOKENS).logits


def load(folder) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(folder)


def sequential(ref: ModelRef) -> torch.Tensor:
    """Eq. 1 read term by term, with PEFT merging each adapter whose B is scaled beforehand."""
    model = load(ref.checkpoint)
    for term in ref.terms:
        model = PeftModel.from_pretrained(model, term.adapter.path)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.mul_(term.coefficient)
        model = model.merge_and_unload()
    return logits(model)


def peft_weighted(ref: ModelRef, combination: str) -> torch.Tensor:
    names = [str(i) for i, _ in enumerate(ref.terms)]
    model = PeftModel.from_pretrained(
        load(ref.checkpoint), ref.terms[0].adapter.path, adapter_name="0"
    )
    for name, term in zip(names[1:], ref.terms[1:], strict=True):
        model.load_adapter(term.adapter.path, adapter_name=name)
    model.add_weighted_adapter(
        names,
        [term.coefficient for term in ref.terms],
        adapter_name="sum",
        combination_type=combination,
    )
    model.set_adapter("sum")
    return logits(model)


def stacked(ref: ModelRef, folder: Path) -> torch.Tensor:
    """`stack` written as one adapter and loaded by PEFT, ranks padded with zeros to the largest."""
    factors = composition.stack(ref.terms)
    rank = max(a.shape[0] for a, _ in factors.values())
    padded = {}
    for module, (a, b) in factors.items():
        wide_a, wide_b = torch.zeros(rank, a.shape[1]), torch.zeros(b.shape[0], rank)
        wide_a[: a.shape[0]], wide_b[:, : a.shape[0]] = a, b
        padded[module] = wide_a, wide_b
    composition.save_adapter(
        folder, padded, alpha=rank, base=ref.checkpoint, trained_on="base", side="forget"
    )
    return logits(PeftModel.from_pretrained(load(ref.checkpoint), folder))


def materialised(ref: ModelRef, folder: Path) -> torch.Tensor:
    composition.materialise(ref, folder)
    return logits(load(folder))


def differ(left: torch.Tensor, right: torch.Tensor) -> float:
    return float((left - right).abs().max())


def test_every_composition_of_mixed_terms_gives_the_same_logits(mixed, tmp_path):
    expected = sequential(mixed)
    assert differ(expected, logits(load(mixed.checkpoint))) > 0.1  # the terms do something
    assert differ(stacked(mixed, tmp_path / "stacked"), expected) < TOLERANCE
    assert differ(peft_weighted(mixed, "cat"), expected) < TOLERANCE
    assert differ(materialised(mixed, tmp_path / "merged"), expected) < TOLERANCE
    model = load(mixed.checkpoint)
    composition.add_to_model(model, mixed.terms)
    assert differ(logits(model), expected) < TOLERANCE


def test_peft_linear_combination_is_not_the_sum(checkpoint, base, tmp_path):
    ref = base
    for seed, coefficient in enumerate([-1.5, 0.7, -0.4]):
        adapter = lora(checkpoint, tmp_path / str(seed), seed, ATTENTION, r=4, lora_alpha=8)
        ref = ref.plus(coefficient, adapter)
    expected = sequential(ref)
    assert differ(stacked(ref, tmp_path / "stacked"), expected) < TOLERANCE
    assert differ(peft_weighted(ref, "linear"), expected) > 100 * TOLERANCE


def test_delta_is_the_weighted_sum_of_products(mixed):
    module = "model.layers.1.self_attn.q_proj"
    expected = torch.zeros(32, 32)
    for term, scaling in zip(mixed.terms[:2], [8 / 4, 3 / 2**0.5], strict=True):
        weights = load_file(Path(term.adapter.path) / "adapter_model.safetensors")
        a, b = (weights[f"base_model.model.{module}.lora_{side}.weight"] for side in "AB")
        expected += term.coefficient * scaling * b @ a
    torch.testing.assert_close(delta(mixed.terms, module), expected)


def test_bf16_weights_are_rounded_once_and_others_are_not_touched(tmp_path, mixed, tiny_llama):
    folder = tiny_llama(tmp_path / "bf16", dtype=torch.bfloat16)
    ref = ModelRef(str(folder), checkpoint_digest(folder), mixed.terms)
    composition.materialise(ref, tmp_path / "merged")
    before = load_file(folder / "model.safetensors")
    after = load_file(tmp_path / "merged" / "model.safetensors")
    factors = composition.stack(mixed.terms)
    assert before.keys() == after.keys()
    for key, weight in before.items():
        expected = weight
        if (module := key.removesuffix(".weight")) in factors:
            expected = (weight.float() + delta(mixed.terms, module)).bfloat16()
            assert not torch.equal(after[key], weight)
        assert after[key].dtype == torch.bfloat16
        assert torch.equal(after[key], expected)


def test_sharded_checkpoint_keeps_its_shards_and_companions(tmp_path, mixed, tiny_llama):
    folder = tiny_llama(tmp_path / "sharded", max_shard_size="20KB")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    ref = ModelRef(str(folder), checkpoint_digest(folder), mixed.terms)
    assert differ(materialised(ref, tmp_path / "merged"), sequential(mixed)) < TOLERANCE
    names = {path.name for path in folder.iterdir()}
    assert len([name for name in names if name.endswith(".safetensors")]) > 1
    assert {path.name for path in (tmp_path / "merged").iterdir()} == names


def test_saved_adapter_comes_back_and_is_known_by_its_content(tmp_path):
    factors = {"model.layers.0.self_attn.q_proj": (torch.randn(4, 32), torch.randn(32, 4))}
    options = {"base": "b", "trained_on": "t", "side": "retain"}
    saved = composition.save_adapter(tmp_path / "a", factors, alpha=8, **options)
    assert (saved.trained_on, saved.side) == ("t", "retain")
    [(module, (a, b, scaling))] = composition.load_adapter(saved.path).items()
    assert scaling == 2
    assert torch.equal(a, factors[module][0]) and torch.equal(b, factors[module][1])
    elsewhere = composition.save_adapter(tmp_path / "b", factors, alpha=8, **options)
    rescaled = composition.save_adapter(tmp_path / "c", factors, alpha=4, **options)
    assert saved.digest == elsewhere.digest != rescaled.digest


def test_a_full_disk_leaves_no_half_adapter_and_keeps_the_one_before(tmp_path):
    """The limit of a file's size stands for the disk: writing fails in the middle of a file."""
    options = {"alpha": 8, "base": "b", "trained_on": "t", "side": "retain"}
    factors = {"model.layers.0.mlp.up_proj": (torch.randn(64, 500), torch.randn(500, 64))}
    before = composition.save_adapter(tmp_path / "a", factors, **options)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        for folder in ("a", "b"):
            with pytest.raises(Exception, match="File too large"):
                composition.save_adapter(tmp_path / folder, factors, **options)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert composition.adapter_digest(tmp_path / "a") == before.digest


def test_adapter_of_another_model_is_refused(tmp_path, base, tiny_llama):
    other = tiny_llama(tmp_path / "other", hidden=64)
    wide = lora(other, tmp_path / "wide", 0, ATTENTION, r=2)
    with pytest.raises(InputError, match=r"wide: found a delta \(32, 64\).*expected \(16, 32\)"):
        composition.materialise(base.plus(1.0, wide), tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
    factors = {"transformer.h.0.attn": (torch.ones(1, 32), torch.ones(32, 1))}
    foreign = composition.save_adapter(
        tmp_path / "foreign", factors, alpha=1, base="", trained_on="", side="forget"
    )
    with pytest.raises(InputError, match=r"foreign: .*transformer\.h\.0\.attn"):
        composition.add_to_model(load(base.checkpoint), base.plus(1.0, foreign).terms)


def test_head_tied_to_the_embeddings_is_refused(tmp_path, base):
    factors = {"lm_head": (torch.ones(1, 32), torch.ones(64, 1))}
    head = composition.save_adapter(
        tmp_path / "head", factors, alpha=1, base="", trained_on="", side="forget"
    )
    ref = base.plus(1.0, head)
    with pytest.raises(InputError, match="lm_head"):
        composition.materialise(ref, tmp_path / "merged")
    with pytest.raises(InputError, match="lm_head"):
        composition.add_to_model(load(base.checkpoint), ref.terms)


def test_adapter_that_changed_since_it_was_referenced_is_refused(mixed):
    folder = Path(mixed.terms[0].adapter.path)
    weights = load_file(folder / "adapter_model.safetensors")
    save_file({key: 2 * weight for key, weight in weights.items()}, folder / "aside")
    shutil.move(folder / "aside", folder / "adapter_model.safetensors")
    with pytest.raises(InputError, match="one: found weights"):
        composition.stack(mixed.terms)


@pytest.mark.parametrize(
    "options",
    [{"use_dora": True}, {"alpha_pattern": {"q_proj": 3}}, {"init_lora_weights": "pissa"}],
)
def test_adapters_whose_delta_is_no_plain_product_are_refused(checkpoint, tmp_path, options):
    with pytest.raises(InputError, match="odd: found"):
        adapter = lora(checkpoint, tmp_path / "odd", 0, ["q_proj"], r=2, **options)
        composition.load_adapter(adapter.path)


def test_folder_without_adapter_is_refused(tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    with pytest.raises(InputError, match="is no adapter"):
        composition.load_adapter(tmp_path)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "found no whole JSON"),
        (b'{"peft_type": "LO', "found no whole JSON"),
        (b"[1]", "found no mapping"),
        (b'{"peft_type": "LORA"}', "found lora_alpha None; expected a number"),
    ],
)
def test_a_damaged_adapter_config_is_one_sentence(tmp_path, content, told):
    (tmp_path / "adapter_config.json").write_bytes(content)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    for ask in (composition.load_adapter, composition.adapter_digest):
        with pytest.raises(InputError, match=rf"adapter_config\.json: {told}"):
            ask(tmp_path)


def test_damaged_adapter_weights_are_one_sentence(tmp_path):
    config = {"peft_type": "LORA", "lora_alpha": 1, "r": 1}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    (tmp_path / "adapter_model.safetensors").write_bytes(b"\0" * 4)
    with pytest.raises(InputError, match=r"adapter_model\.safetensors: found a damaged file"):
        composition.load_adapter(tmp_path)
