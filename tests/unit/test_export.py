"""What is exported loads without rnr_dist and computes what the model reference computes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from rnr_dist.errors import InputError
from rnr_dist.types import ModelRef, Split
from rnr_dist.weights.adapters import BASE_DIGEST
from rnr_dist.weights.checkpoints import checkpoint_digest
from rnr_dist.weights.composition import add_to_model, load_adapter, save_adapter, stack
from rnr_dist.weights.export import Card, CardScore, export_adapter, export_merged
from rnr_dist.weights.provenance import Origin

CARD = Card("toxicity", "release")
TOKENS = torch.arange(24).reshape(2, 12) * 5 % 64


@pytest.fixture
def base(tmp_path, tiny_llama):
    tiny_llama(tmp_path / "base")
    return ModelRef(str(tmp_path / "base"), checkpoint_digest(tmp_path / "base"))


def adapter(folder, rank, modules):
    """A random LoRA; `modules` maps a projection to its output width."""
    factors = {
        f"model.layers.{layer}.self_attn.{module}": (
            torch.randn(rank, 32) / 6,
            torch.randn(width, rank) / 6,
        )
        for layer in range(2)
        for module, width in modules.items()
    }
    return save_adapter(folder, factors, alpha=2 * rank, base="", trained_on="t", side="forget")


@pytest.fixture
def composed(base, tmp_path):
    """Nine stacked ranks on q_proj, five on v_proj, four on k_proj."""
    one = adapter(tmp_path / "one", 5, {"q_proj": 32, "v_proj": 16})
    two = adapter(tmp_path / "two", 4, {"q_proj": 32, "k_proj": 16})
    return base.plus(-1.5, one).plus(0.5, two)


@torch.no_grad()
def logits(model):
    return model.eval()(TOKENS).logits


def expected(ref):
    model = AutoModelForCausalLM.from_pretrained(ref.checkpoint)
    plain = logits(model)
    add_to_model(model, ref.terms)
    changed = logits(model)
    assert (changed - plain).abs().max() > 0.1
    return changed


def test_exported_adapter_is_the_composed_model_in_peft(composed, tmp_path):
    exported, truncation = export_adapter(
        composed, tmp_path / "out", replace(CARD, base=Origin("org/name", "mit", "de"))
    )
    assert truncation is None
    assert "terms' sum: exact, rank 9" in (tmp_path / "out" / "README.md").read_text()
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (16, 16)  # 9 padded to what vLLM accepts
    assert config["base_model_name_or_path"] == "org/name"
    for a, b, scaling in load_adapter(exported.path).values():
        assert (a.shape[0], b.shape[1], scaling) == (16, 16, 1)
    model = AutoModelForCausalLM.from_pretrained(composed.checkpoint)
    model = PeftModel.from_pretrained(model, tmp_path / "out")
    torch.testing.assert_close(logits(model), expected(composed), atol=1e-4, rtol=0)


def test_exported_merge_is_the_composed_model_in_transformers(composed, tmp_path):
    export_merged(composed, tmp_path / "out", CARD)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    torch.testing.assert_close(logits(model), expected(composed), atol=1e-4, rtol=0)


@pytest.mark.parametrize("export", [export_adapter, export_merged])
def test_card_says_what_was_forgotten_and_from_what_it_was_composed(composed, tmp_path, export):
    change = (-0.87, -0.95, -0.77)
    score = CardScore(0.0123, (0.004, 0.025), Split.FINAL, 60, 480, before=0.1, change=change)
    known = replace(CARD, base=Origin("org/name", "mit", "de", "Rounded."), notes=["In short: so."])
    export(composed, tmp_path / "out", replace(known, scores={"fraction": score}))
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith('---\nbase_model: "org/name"\n')
    assert 'license: "mit"\nlanguage: "de"\ntags: ["unlearning"]\n---\n# org/name' in card
    assert "Rounded." in card and "In short: so." in card and "## Limits" in card
    assert "made to forget: toxicity" in card
    assert composed.digest in card and composed.checkpoint_digest in card
    for term in composed.terms:
        assert f"| {term.coefficient:+g} | forget | `{term.adapter.digest}`" in card
    assert "| 0.1 | 0.0123 | 0.004 to 0.025 | −87 % (−95 … −77 %) | final | 60 | 480 |" in card
    assert "Made with rnr_dist by release." in card
    assert f"torch {torch.__version__}" in card


@pytest.mark.parametrize("export", [export_adapter, export_merged])
def test_a_base_without_a_name_is_known_by_its_digest_and_no_path_goes_out(
    composed, tmp_path, export
):
    export(composed, tmp_path / "out", CARD)
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"# checkpoint-{composed.checkpoint_digest}" in card and "base_model" not in card
    assert "licence: that of the base" in card
    for file in (tmp_path / "out").glob("*.json"):
        assert str(tmp_path) not in file.read_text(), file
    assert str(tmp_path) not in card


def test_the_tokenizer_lies_beside_the_adapter(composed, tmp_path):
    checkpoint = Path(composed.checkpoint)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (checkpoint / name).write_text("{}")
    export_adapter(composed, tmp_path / "out", CARD)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    weights = {"adapter_config.json", "adapter_model.safetensors", "README.md", BASE_DIGEST}
    assert names == weights | {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}


def test_a_merge_says_how_it_was_rounded(tmp_path, tiny_llama):
    tiny_llama(tmp_path / "base")
    export_merged(whole(tmp_path / "base"), tmp_path / "exact", CARD)
    assert "exact to fp32" in (tmp_path / "exact" / "README.md").read_text()
    AutoModelForCausalLM.from_pretrained(tmp_path / "base").to(torch.bfloat16).save_pretrained(
        tmp_path / "half"
    )
    export_merged(whole(tmp_path / "half"), tmp_path / "rounded", CARD)
    told = "summed in fp32 and rounded to bfloat16, the checkpoint's own format: each weight is off"
    assert f"{told} by at most 0.2%" in (tmp_path / "rounded" / "README.md").read_text()


def whole(folder):
    """The checkpoint with one adapter."""
    ref = ModelRef(str(folder), checkpoint_digest(folder))
    return ref.plus(1, adapter(folder.with_name(f"{folder.name}-one"), 2, {"q_proj": 32}))


@pytest.mark.parametrize("export", [export_adapter, export_merged])
def test_folder_that_holds_something_is_left_alone(composed, tmp_path, export):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    with pytest.raises(InputError, match="thesis: holds something already"):
        export(composed, tmp_path / "thesis", CARD)
    assert (tmp_path / "thesis" / "chapter.txt").read_text() == "years of work"


def test_nothing_to_export_and_too_much_are_refused(base, tmp_path):
    with pytest.raises(InputError, match="no terms"):
        export_adapter(base, tmp_path / "out", CARD)
    ref = base.plus(1, adapter(tmp_path / "wide", 513, {"q_proj": 32}))
    with pytest.raises(InputError, match=r"sum to 513; expected at most 512 .*--rank 512 cuts"):
        export_adapter(ref, tmp_path / "out", CARD)
    assert not (tmp_path / "out").exists()


# A smaller rank


def test_adapter_cut_to_a_rank_is_near_by_what_its_card_says(composed, tmp_path):
    exported, truncation = export_adapter(composed, tmp_path / "out", CARD, rank=6)
    exact, lost, total = stack(composed.terms), 0.0, 0.0
    for module, (a, b, scaling) in load_adapter(exported.path).items():
        assert (a.shape[0], scaling) == (8, 1)  # padded to what vLLM accepts
        assert torch.linalg.matrix_rank(b @ a) <= 6
        whole = exact[module][1] @ exact[module][0]
        difference = float((b @ a - whole).norm())
        lost, total = lost + difference**2, total + float(whole.norm()) ** 2
        found = truncation.modules[module]
        assert found == pytest.approx(difference / float(whole.norm()), abs=1e-5)
        assert (found > 0) == ("q_proj" in module)  # the others have rank 5 and 4
    assert truncation.error == pytest.approx((lost / total) ** 0.5, abs=1e-5)
    assert truncation.error > 0.05
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"cut from rank 9 to 6 by SVD, relative Frobenius error {truncation.error:.3g}" in card
    assert f"(`{truncation.worst}`); any scores below are of the uncut model" in card
    assert "--max-lora-rank 8" in card


def test_a_rank_that_holds_the_whole_sum_is_exact(composed, tmp_path):
    exported, truncation = export_adapter(composed, tmp_path / "out", CARD, rank=9)
    plain, _ = export_adapter(composed, tmp_path / "plain", CARD)
    assert truncation.error == 0 and exported.digest == plain.digest
    assert "terms' sum: exact, rank 9" in (tmp_path / "out" / "README.md").read_text()


def test_a_rank_lifts_the_bound_on_the_sum_of_ranks(base, tmp_path):
    ref = base.plus(1, adapter(tmp_path / "wide", 513, {"q_proj": 32}))
    exported, truncation = export_adapter(ref, tmp_path / "out", CARD, rank=512)
    assert truncation.error < 1e-6  # a delta of 32 columns has rank 32
    for module, (a, b, _) in load_adapter(exported.path).items():
        assert a.shape[0] == 32
        whole_a, whole_b = stack(ref.terms)[module]
        torch.testing.assert_close(b @ a, whole_b @ whole_a, atol=1e-4, rtol=0)


@pytest.mark.parametrize("rank", [-1, 0, 513])
def test_a_rank_that_no_adapter_can_have_is_refused(composed, tmp_path, rank):
    with pytest.raises(InputError, match=rf"out: found rank {rank}; expected 1 to 512"):
        export_adapter(composed, tmp_path / "out", CARD, rank=rank)
    assert not (tmp_path / "out").exists()
