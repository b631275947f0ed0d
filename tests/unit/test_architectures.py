"""What `rnr check` promises of models: each architecture's uses are right, or refused by it."""

import re
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.fault_parts import models, tiny
from rnr_dist.config.training import Training
from rnr_dist.errors import InputError
from rnr_dist.generate.backend import positions_of
from rnr_dist.weights.skeleton import embeddings_stand_for_tokens, head_is_last, linear_layers
from rnr_dist.weights.targets import require_trained

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
# One of each kind of oddness; the whole matrix is a part of benchmarks/faults.py.
ONE_OF_EACH = (
    "Llama, in shards",
    "Mistral, short window",
    "Gemma 2",  # scaled embeddings, capped logits
    "Gemma 3",  # layers with a window beside layers without
    "GPT-2",  # weights the other way round, keys without the prefix
    "GPT-NeoX (Pythia)",
    "GPT-Neo",  # windows of its own making
    "OPT-350m",  # narrow embeddings, keys without the prefix
    "BLOOM",  # positions from the mask, keys without the prefix
    "Falcon-H1",  # scales its embeddings outside their layer
)
KINDS = {kind.name: kind for kind in tiny.KINDS}


def documented():
    """{model: cells} of the table in the docs."""
    rows = [line.strip("| ").split(" | ") for line in PAGE.read_text().splitlines()]
    return {row[0]: row[1:] for row in rows if row[0] in KINDS}


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_every_use_of_a_model_is_right_or_refused_as_the_docs_say(name, tmp_path, one_thread):
    found = models.uses_of(KINDS[name], tmp_path)
    assert [(case.use, case.said) for case in found if case.verdict == "wrong"] == []
    shown = {"right": "yes", "refused": "refused"}
    cells = [re.sub(r" \(\d\)", "", cell) for cell in documented()[name]]
    assert [shown[case.verdict] for case in found] == cells


def test_the_docs_name_every_kind_of_the_matrix():
    assert list(documented()) == list(KINDS)


REFUSED = {
    "max_model_len above the model's": r"^engines\.max_model_len: found 513, .* 512 positions",
    "a norm in target_modules": r"^release\.forget\.target_modules: 'input_layernorm' means "
    r"model\.layers\.0\.input_layernorm of MODEL, which is a LlamaRMSNorm and no linear layer",
    "a tied head in target_modules": r"^release\.forget\.target_modules: 'lm_head' means lm_head of"
    r" MODEL, which has no weight of its own but the input embedding's; expected some of down_proj",
    "the embedding in target_modules": r"'embed_tokens' means .*, which is a Embedding and no lin",
    "a layer that is not there": r"^release\.retain\.layers: 7 is no decoder layer of MODEL;"
    r" expected some of 0 to 1$",
    "narrow embeddings on vLLM": r"^engines\.backend: found vllm, which takes soft prompts as wide"
    r" as the 32 states of MODEL, whose embeddings have 16; expected transformers$",
    "no tokenizer": r"^MODEL: found no tokenizer that can be loaded \(.*\); expected tokenizer\.js",
}


def test_what_no_architecture_can_do_is_refused_in_one_sentence(tmp_path):
    found = {case.kind: case for case in models.other_refusals(tmp_path)}
    assert found.keys() == REFUSED.keys()
    for name, case in found.items():
        assert case.verdict == "refused"
        assert re.search(REFUSED[name], case.said), case.said
        assert "\n" not in case.said


class ScalesItself(LlamaForCausalLM):
    """Scales what it looked up itself, as MiniCPM's own code does: embeddings lack the scale."""

    def forward(self, input_ids=None, inputs_embeds=None, **options):
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids) * 12
        return super().forward(inputs_embeds=inputs_embeds, **options)


class CapsItself(LlamaForCausalLM):
    def forward(self, *args, **options):
        output = super().forward(*args, **options)
        output.logits = torch.tanh(output.logits / 30) * 30
        return output


def test_what_a_model_does_around_its_layers_shows_without_its_weights():
    config = LlamaConfig(**tiny.ROTARY, vocab_size=tiny.VOCABULARY)
    with torch.device("meta"):
        plain, scaled, capped = (
            kind(config).eval() for kind in (LlamaForCausalLM, ScalesItself, CapsItself)
        )
    assert embeddings_stand_for_tokens(plain) and head_is_last(plain)
    assert not embeddings_stand_for_tokens(scaled) and head_is_last(scaled)
    assert embeddings_stand_for_tokens(capped) and not head_is_last(capped)


def test_layers_are_called_what_the_model_calls_them(tmp_path):
    """GPT-2's files leave out the prefix, and hold (in, out) what a LoRA takes for (out, in)."""
    folder = tiny.write(KINDS["GPT-2"], tmp_path)
    layer = linear_layers(folder)["transformer.h.1.attn.c_attn"]
    assert (layer.key, layer.shape, layer.transposed) == ("h.1.attn.c_attn.weight", (96, 32), True)
    tiny.rename(folder, lambda key: f"transformer.{key}")
    assert linear_layers(folder).keys() >= {"transformer.h.1.attn.c_attn"}
    assert linear_layers(folder)["transformer.h.1.attn.c_attn"].key.startswith("transformer.h.1")


@pytest.mark.parametrize("objective", ["kumpr", "kl", "icu", "llmu"])
def test_a_loss_of_the_head_alone_is_refused_where_logits_are_capped_after_it(tmp_path, objective):
    folder = tiny.write(KINDS["Gemma 2"], tmp_path)
    plain = Training(target_modules=["q_proj"])
    require_trained(folder, plain, "release.forget")
    asked = Training(target_modules=["q_proj"], objective={"name": objective})
    sentence = rf"^methods\.x\.objective: found {objective}, which asks a model's head alone, but"
    with pytest.raises(InputError, match=sentence):
        require_trained(folder, asked, "methods.x")


def test_a_model_has_as_many_positions_as_its_config_or_its_kind_says():
    assert positions_of({"model_type": "gpt2"}) == 1024
    assert positions_of({"model_type": "gpt2", "n_positions": 64}) == 64
    assert positions_of({"model_type": "bloom"}) is None
    stretched = {"max_position_embeddings": 64, "rope_scaling": {"rope_type": "linear"}}
    stretched["rope_scaling"]["factor"] = 4.0
    assert positions_of(stretched) == 256
    stretched["rope_scaling"]["rope_type"] = "yarn"
    assert positions_of(stretched) == 64
