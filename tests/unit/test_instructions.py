"""Meta-prompts, instructions and queries, and the two ways to read a model's embeddings."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from benchmarks.fault_parts import tiny
from rnr_dist.errors import InputError
from rnr_dist.generate.requests import Continuation, Response
from rnr_dist.reveal.arms import ArmTable
from rnr_dist.reveal.embeddings import InputEmbeddings
from rnr_dist.reveal.instructions import (
    FeatureReader,
    arm_features,
    decode_requests,
    instruction_of,
    meta_prompt,
)
from rnr_dist.tasks.prompts import QUERY_FORMATS, query
from rnr_dist.types import SamplingSettings

HIDDEN = 8


def decoded(text):
    return instruction_of(Response("m", continuations=(Continuation((), text, "stop"),)))


class Characters:
    """A tokenizer of characters with a begin token (0)."""

    def encode(self, text, add_special_tokens=True):
        return [0] * add_special_tokens + [ord(letter) for letter in text]


def test_the_meta_prompt_is_pairs_on_lines_of_their_own_and_an_open_end():
    pairs = [("So I told\nhim", " that  he"), ("Yesterday", "it rained")]
    shown = "Input: So I told him\nOutput: that he\n\nInput: Yesterday\nOutput: it rained\n\n"
    first = meta_prompt(pairs, Characters(), "first")
    assert first.before == ()
    assert first.after == (0, *map(ord, f"{shown}The instruction was to"))
    last = meta_prompt(pairs, Characters(), "last")
    assert last.before == (0, *map(ord, shown))
    assert last.after == tuple(map(ord, "The instruction was to"))


@pytest.mark.parametrize(
    ("text", "instruction"),
    [
        (" insult the reader. Then stop.", "insult the reader."),
        ("shout!\n\nInput: next", "shout!"),
        ("\n\n  write a reply to\nInput: x", "write a reply to"),
        ("ask why? because", "ask why?"),
        ("use version 2.5 of the text", "use version 2.5 of the text"),
        ("", ""),
        (" \n ", ""),
        ("Output: a kind of music.", ""),
        ("\nInput: It is a", ""),
        ("describe the Output: line", "describe the Output: line"),
    ],
)
def test_an_instruction_is_the_first_sentence_of_the_first_line(text, instruction):
    assert decoded(text) == instruction


def test_queries_end_where_the_model_goes_on():
    assert query("Be rude.", "So I told", "preamble", None) == "Instruction: Be rude.\n\nSo I told"
    assert query("Be rude.", "So I told", "instruction_input_output", None) == (
        "Instruction: Be rude.\n\nInput: So I told\nOutput:"
    )
    assert all(query("", "So I told", style, None) == "So I told" for style in QUERY_FORMATS)
    # Braces are text.
    assert query("{x}", "a {context}", "preamble", None) == "Instruction: {x}\n\na {context}"


@pytest.mark.parametrize("bos", ["<s>", None])
def test_a_chat_query_lets_the_answer_begin_with_the_context(bos):
    class Tokenizer:
        bos_token, bos_token_id = bos, 1

        def encode(self, text, add_special_tokens=True):
            return [1, 7, 2] if bos and add_special_tokens else [7]

        def apply_chat_template(self, messages, *, tokenize, add_generation_prompt):
            assert add_generation_prompt and not tokenize
            [message] = messages
            return f"{bos or ''}[{message['role']}] {message['content']} [assistant] "

    found = query("be rude.", "So I told", "chat", Tokenizer())
    assert found == "[user] Be rude. [assistant] So I told"  # one begin token: by encoding
    assert query("", "So I told", "chat", Tokenizer()) == "So I told"


def test_arms_differ_in_their_soft_tokens_alone():
    table = np.arange(10 * HIDDEN, dtype=np.float32).reshape(10, HIDDEN)
    arms = ArmTable(6, 4, soft_tokens=3, hidden=HIDDEN, seed=0, scale_std=0.1)
    sampling = SamplingSettings(1, 16, 0.0, 1.0)
    requests = decode_requests(arms, [5, 0, 3], table[[1, 9]], table[[7, 2, 7]], sampling)
    assert len(requests) == 3
    for arm, request in zip([5, 0, 3], requests, strict=True):
        assert request.embeddings.shape == (8, HIDDEN)
        assert request.embeddings.dtype == np.float32
        assert np.array_equal(request.embeddings[:2], table[[1, 9]])
        assert np.array_equal(request.embeddings[2:5], arms.soft_prompt(arm))
        assert np.array_equal(request.embeddings[5:], table[[7, 2, 7]])
        assert request.token_ids is None
        assert request.sampling == sampling
    assert not np.array_equal(requests[0].embeddings, requests[1].embeddings)
    none = decode_requests(arms, [1], table[:0], table[[3]], sampling)[0].embeddings
    assert np.array_equal(none, np.concatenate([arms.soft_prompt(1), table[[3]]]))


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_input_embeddings_are_found_in_any_shard_as_float32(tmp_path, tiny_llama, dtype):
    folder = tiny_llama(tmp_path / "model", dtype=torch.bfloat16, max_shard_size="10KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    table = AutoModelForCausalLM.from_pretrained(folder).get_input_embeddings().weight
    table = table.detach().float().numpy()
    embeddings = InputEmbeddings(FeatureReader(str(folder), dtype, trust_remote_code=False))
    assert (embeddings.vocabulary, embeddings.hidden) == table.shape
    found = embeddings.of([4, 0, 4])
    assert found.dtype == np.float32
    assert np.array_equal(found, table[[4, 0, 4]])
    assert embeddings.of([]).shape == (0, table.shape[1])
    assert embeddings.std() == pytest.approx(table.std(), abs=1e-6)


def test_a_layer_that_scales_gives_scaled_embeddings_in_the_engines_number_format(tmp_path):
    """Gemma's layer scales by the root of its width, rounded to the weights' format."""
    [kind] = [one for one in tiny.KINDS if one.name == "Gemma 2"]
    folder = tiny.write(kind, tmp_path / "model")
    for dtype in ("float32", "bfloat16"):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
        embeddings = InputEmbeddings(FeatureReader(str(folder), dtype, trust_remote_code=False))
        with torch.no_grad():
            expected = model.get_input_embeddings()(torch.arange(tiny.VOCABULARY)).float().numpy()
        assert np.array_equal(embeddings.of(range(tiny.VOCABULARY)), expected)
        assert embeddings.std() == pytest.approx(expected.std(), rel=1e-6)
        raw = model.get_input_embeddings().weight.detach().float().numpy()
        assert expected.std() > 5 * raw.std()


def test_a_checkpoint_without_known_embeddings_says_so(tmp_path, tiny_llama):
    folder = tiny_llama(tmp_path / "model")
    save_file({"odd.weight": torch.zeros(2, 2)}, folder / "model.safetensors")
    sentence = "model: found no weight of the model's input embedding; expected one in its files"
    with pytest.raises(InputError, match=sentence):
        InputEmbeddings(FeatureReader(str(folder), "float32", trust_remote_code=False))


@pytest.mark.parametrize("before", [(), (7, 3, 11, 2)])
def test_features_are_the_last_hidden_state_of_each_wanted_arm(tmp_path, tiny_llama, before):
    """Rows of unlike length share a batch, and what stands before them is read once."""
    folder = tiny_llama(tmp_path / "model")
    arms = ArmTable(8, dimension=3, soft_tokens=2, hidden=32, seed=1, scale_std=0.2)
    after = [(5, 9, 40), (5,), (5, 9, 40, 12, 6)]
    reader = FeatureReader(str(folder), "float32", trust_remote_code=False)
    found = arm_features(reader, arms, [6, 1, 3], before, after, batch=2)
    assert (found.shape, found.dtype) == ((3, 32), np.float32)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    table = model.get_input_embeddings().weight
    for row, arm, ids in zip(found, [6, 1, 3], after, strict=True):
        soft = torch.from_numpy(arms.soft_prompt(arm))
        inputs = torch.cat([table[list(before)], soft, table[list(ids)]])[None]
        with torch.inference_mode():
            wanted = model(inputs_embeds=inputs, output_hidden_states=True).hidden_states[-1][0, -1]
        assert np.allclose(row, wanted.numpy(), atol=1e-5)
