"""The transformers engine's loop against `generate` and a plain forward, on tiny random models."""

import asyncio

import numpy as np
import pytest
import torch

from rnr_dist.config.engines import Engines
from rnr_dist.errors import InputError
from rnr_dist.generate.decoding import Bounds, Decoder
from rnr_dist.generate.endpoint import Endpoint
from rnr_dist.generate.requests import Generate, Message, ReadLikelihood, before_stop
from rnr_dist.generate.transformers_engine import TransformersEngine, place_bytes
from rnr_dist.types import SamplingSettings
from tests.unit.tiny_models import capped_gemma, gpt_neo, llama

END = 1
MODELS = {"llama": llama, "gpt-neo": gpt_neo, "gemma": capped_gemma}
BOUNDS = Bounds(sequences=4, places=10_000, longest=60)
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(params=MODELS)
def model(request):
    return MODELS[request.param]().eval()


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory, tiny_tokenizer):
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    tiny_tokenizer(folder, 53)
    return AutoTokenizer.from_pretrained(folder)


def prompts(count=9):
    """Of 1 to 20 tokens, so beyond GPT-Neo's window and each padded differently."""
    draw = np.random.default_rng(0)
    lengths = draw.permutation(np.arange(1, 21))[:count]
    return [tuple(int(token) for token in draw.integers(2, 53, length)) for length in lengths]


def greedy(most, n=1, **more):
    return SamplingSettings(n=n, max_tokens=most, temperature=0.0, top_p=1.0, **more)


def generated(model, ids, most):
    """What transformers' own loop says, one prompt at a time."""
    inputs = torch.tensor([ids])
    output = model.generate(
        inputs,
        attention_mask=torch.ones_like(inputs),
        max_new_tokens=most,
        do_sample=False,
        eos_token_id=END,
        pad_token_id=0,
    )
    return tuple(output[0, len(ids) :].tolist())


def test_greedy_tokens_equal_generate_whatever_shares_their_batch(model, tokenizer):
    asked = [Generate(greedy(3 + at * 4), ids) for at, ids in enumerate(prompts())]
    found = Decoder(model, tokenizer, [END], BOUNDS).continuations(asked)
    for request, [said] in zip(asked, found, strict=True):
        most = request.sampling.max_tokens
        expected = generated(model, request.token_ids, most)
        assert said.token_ids == expected
        assert said.finish_reason == ("stop" if expected[-1] == END else "length")
        assert said.text == tokenizer.decode(expected, skip_special_tokens=True)


def test_rows_that_end_leave_the_others_as_they_were(tokenizer):
    """Any token ends a text here that some continuations meet early and others never."""
    model = gpt_neo().eval()
    asked = [Generate(greedy(25), ids) for ids in prompts(12)]
    long = Decoder(model, tokenizer, [], BOUNDS).continuations(asked)
    ends = {said.token_ids[2] for [said] in long[:6]}
    bounds = Bounds(sequences=12, places=10_000, longest=60)
    found = Decoder(model, tokenizer, sorted(ends), bounds).continuations(asked)
    lengths = set()
    for [whole], [cut] in zip(long, found, strict=True):
        first = next((at for at, one in enumerate(whole.token_ids) if one in ends), None)
        assert cut.token_ids == whole.token_ids[: None if first is None else first + 1]
        lengths.add(len(cut.token_ids))
    assert len(lengths) > 2


def test_embeddings_say_what_their_tokens_say(model, tokenizer):
    embed = model.get_input_embeddings()  # some scale what stands in their table
    asked = [Generate(greedy(8), ids) for ids in prompts()]
    embedded = [
        Generate(greedy(8), embeddings=embed(torch.tensor(one.token_ids)).detach().numpy())
        for one in asked
    ]
    decoder = Decoder(model, tokenizer, [END], BOUNDS)
    # Together in one call, in turn.
    mixed = [one for pair in zip(asked, embedded, strict=True) for one in pair]
    found = decoder.continuations(mixed)
    assert found[::2] == found[1::2] == decoder.continuations(asked)


def test_likelihoods_equal_a_plain_forward(model, tokenizer):
    asked = [ReadLikelihood(ids, min(start, len(ids))) for start, ids in enumerate(prompts(), 1)]
    found = Decoder(model, tokenizer, [END], BOUNDS).likelihoods(asked)
    for request, (values, right) in zip(asked, found, strict=True):
        ids = torch.tensor([request.token_ids])
        with torch.no_grad():
            log_p = model(ids).logits[0].log_softmax(-1)
        places = range(request.start, len(request.token_ids))
        assert len(values) == len(right) == len(places)
        for at, value, arg_max in zip(places, values, right, strict=True):
            assert value == pytest.approx(float(log_p[at - 1, ids[0, at]]), abs=1e-4)
            assert arg_max == (int(log_p[at - 1].argmax()) == int(ids[0, at]))
    assert Decoder(model, tokenizer, [END], BOUNDS).likelihoods([ReadLikelihood((5,))]) == [
        ((), ())
    ]


def test_draws_stay_in_the_nucleus_and_follow_its_shares(model, tokenizer):
    ids = prompts()[0]
    sampling = SamplingSettings(n=3000, max_tokens=1, temperature=0.7, top_p=0.6)
    bounds = Bounds(sequences=1000, places=100_000, longest=60)
    [said] = Decoder(model, tokenizer, [], bounds).continuations([Generate(sampling, ids)])
    with torch.no_grad():
        shares = (model(torch.tensor([ids])).logits[0, -1] / 0.7).softmax(-1).numpy()
    order = np.argsort(-shares)
    before = np.cumsum(shares[order]) - shares[order]
    nucleus = order[before < 0.6]
    counts = np.bincount([one.token_ids[0] for one in said], minlength=53)
    assert counts.sum() == counts[nucleus].sum() == 3000
    expected = shares[nucleus] / shares[nucleus].sum()
    # Five standard errors of each share.
    spread = 5 * np.sqrt(expected * (1 - expected) / 3000) + 1e-9
    assert np.all(np.abs(counts[nucleus] / 3000 - expected) < spread)


def test_requests_of_one_batch_keep_their_own_settings(tokenizer):
    model = llama().eval()
    ids = prompts()[0]
    mixed = [
        Generate(greedy(4), ids),
        Generate(SamplingSettings(n=2, max_tokens=9, temperature=1.0, top_p=1.0), ids),
        Generate(SamplingSettings(n=3, max_tokens=2, temperature=1.0, top_p=1e-6), ids),
    ]
    bounds = Bounds(sequences=64, places=100_000, longest=60)
    found = Decoder(model, tokenizer, [], bounds).continuations(mixed)
    assert [len(one) for one in found] == [1, 2, 3]
    assert [{len(said.token_ids) for said in one} for one in found] == [{4}, {9}, {2}]
    # A nucleus of one token is greedy.
    assert {said.token_ids for said in found[2]} == {found[0][0].token_ids[:2]}


def test_a_stop_string_ends_the_text_before_it(tokenizer):
    decoder = Decoder(gpt_neo().eval(), tokenizer, [], BOUNDS)
    asked = [Generate(greedy(20), ids) for ids in prompts(20)]
    told = [said for [said] in decoder.continuations(asked)]
    changes = [
        [at for at in range(2, 20) if said.token_ids[at] not in said.token_ids[:at]]
        for said in told
    ]
    one = next(number for number, places in enumerate(changes) if places)
    ids, whole, at = asked[one].token_ids, told[one], changes[one][0]
    words = whole.text.split()
    asked = [Generate(greedy(20, stop=(words[at], "never")), ids), Generate(greedy(20), ids)]
    [cut], [again] = decoder.continuations(asked)
    assert cut.token_ids == whole.token_ids[: at + 1]
    assert (cut.text, cut.finish_reason) == (" ".join(words[:at]) + " ", "stop")
    assert again == whole
    last = Generate(greedy(at + 1, stop=(words[at],)), ids)
    assert decoder.continuations([last])[0][0] == cut


def test_the_earliest_stop_string_counts():
    assert before_stop("one two three", ("three", "two")) == "one "
    assert before_stop("one two three", ("four",)) == "one two three"
    assert before_stop("one", ()) == "one"


def test_bounds_split_a_batch_and_change_nothing(tokenizer):
    model = gpt_neo().eval()
    asked = [Generate(greedy(6, n=3), ids) for ids in prompts()]
    sizes = []
    wide = Decoder(model, tokenizer, [END], Bounds(100, 100_000, 60)).continuations(asked)
    model.register_forward_hook(
        lambda _, inputs, named, output: sizes.append(named["attention_mask"].shape),
        with_kwargs=True,
    )
    tight = Decoder(model, tokenizer, [END], Bounds(100, 52, 60)).continuations(asked)
    assert tight == wide
    assert max(rows * width for rows, width in sizes) <= 52


def test_a_text_never_grows_beyond_its_positions(tokenizer):
    model = gpt_neo().eval()  # 64 positions
    decoder = Decoder(model, tokenizer, [], Bounds(4, 10_000, 64))
    asked = [Generate(greedy(64), (5,)), Generate(greedy(4), (6,) * 60)]
    asked.append(Generate(greedy(50), (7,) * 60))
    found = decoder.continuations(asked)
    assert [len(one[0].token_ids) for one in found] == [63, 4, 4]
    for length in (0, 64):
        with pytest.raises(ValueError, match=f"has {length} tokens; expected 1 to 63"):
            decoder.continuations([Generate(greedy(1), (5,) * length)])
    with pytest.raises(ValueError, match="a text has 65 tokens; expected at most 64"):
        decoder.likelihoods([ReadLikelihood((5,) * 65)])


def test_a_model_of_no_numbers_says_something_instead_of_failing(tokenizer):
    model = llama().eval()
    with torch.no_grad():
        model.lm_head.weight.fill_(float("nan"))
    asked = [Generate(SamplingSettings(n=2, max_tokens=3), (5, 6))]
    [said] = Decoder(model, tokenizer, [END], BOUNDS).continuations(asked)
    assert [len(one.token_ids) for one in said] == [3, 3]


TEMPLATE = "{% for m in messages %}{{ m.role }} {{ m.content }} {% endfor %}w9"


def test_messages_are_written_by_the_models_template(tokenizer):
    import copy

    told = copy.deepcopy(tokenizer)
    told.chat_template = TEMPLATE
    decoder = Decoder(llama().eval(), told, [END], BOUNDS)
    messages = (Message("w3", "w4 w5"), Message("w6", "w7"))
    by_messages = Generate(greedy(6), messages=messages)
    by_text = Generate(greedy(6), text="w3 w4 w5 w6 w7 w9")
    by_ids = Generate(greedy(6), (3, 4, 5, 6, 7, 9))
    one, two, three = decoder.continuations([by_messages, by_text, by_ids])
    assert one == two == three
    read = decoder.likelihoods([ReadLikelihood(text="w3 w4 w5"), ReadLikelihood((3, 4, 5))])
    assert read[0] == read[1]


def test_messages_without_a_template_are_one_sentence(tokenizer):
    decoder = Decoder(llama().eval(), tokenizer, [END], BOUNDS)
    with pytest.raises(InputError, match="messages: found no chat template"):
        decoder.continuations([Generate(greedy(1), messages=(Message("user", "w3"),))])


@pytest.mark.parametrize("prompt", [{}, {"text": "a", "token_ids": (1,)}])
def test_a_request_has_exactly_one_prompt(prompt):
    with pytest.raises(ValueError, match="expected exactly one of token_ids"):
        Generate(greedy(1), **prompt)


def test_a_likelihood_is_read_of_one_text():
    with pytest.raises(ValueError, match="found both"):
        ReadLikelihood((1, 2), text="a")


# The engine around the loop


@pytest.fixture
def saved(tmp_path, tiny_tokenizer):
    """Two checkpoints of one architecture."""
    folders = []
    for name, shift in (("one", 0.0), ("two", 0.3)):
        model = gpt_neo()
        with torch.no_grad():
            model.transformer.wte.weight.add_(shift * torch.randn(53, 16))
        model.save_pretrained(tmp_path / name)
        tiny_tokenizer(tmp_path / name, 53)
        folders.append(tmp_path / name)
    return folders


def test_an_engine_answers_in_order_and_exchanges_its_weights(saved):
    from transformers import AutoModelForCausalLM

    engine = TransformersEngine(Engines(dtype="float32", max_model_len=60), str(saved[0]))
    asked = [ReadLikelihood((3, 4, 5)), Generate(greedy(9), (3, 4)), ReadLikelihood((9, 3))]

    async def serve():
        first = await engine.run(asked, "one")
        await engine.load(saved[1])
        second, _ = await asyncio.gather(engine.run(asked, "two"), engine.run(asked[:1], "two"))
        return first, second

    for folder, name, answers in zip(saved, ("one", "two"), asyncio.run(serve()), strict=True):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        assert [answer.model for answer in answers] == [name] * 3
        assert [len(answer.log_likelihoods) for answer in answers] == [2, 0, 1]
        assert answers[1].continuations[0].token_ids == generated(model, (3, 4), 9)
    engine.shutdown()


def test_a_token_in_the_cache_takes_the_bytes_that_it_takes():
    for model in (llama(), gpt_neo(), capped_gemma()):
        cache = model(torch.tensor([[5, 6, 7]]), use_cache=True).past_key_values
        bytes_held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
        assert place_bytes(model.config, 4) == bytes_held / 3


def test_the_pools_handle_is_an_endpoint():
    from rnr_dist.generate.cluster_pool import PoolHandle

    assert isinstance(PoolHandle(None), Endpoint)
    assert not isinstance(object(), Endpoint)
