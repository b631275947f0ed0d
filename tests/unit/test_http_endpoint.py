"""The HTTP endpoint against a scripted server: what is sent, repeated, refused and understood."""

import asyncio

import numpy as np
import pytest

from rnr_dist.errors import InputError
from rnr_dist.generate.endpoint import Endpoint
from rnr_dist.generate.http_endpoint import HttpEndpoint, Server
from rnr_dist.generate.requests import Generate, Message, ReadLikelihood
from rnr_dist.types import ModelRef, SamplingSettings
from tests.unit.http_fakes import serving

SAMPLING = SamplingSettings(n=2, max_tokens=7, temperature=0.5, top_p=0.8, stop=("END",))
ONE = SamplingSettings(n=1)
BUSY = (503, {"error": {"message": "busy"}})


def said(*texts):
    return 200, {"choices": [{"text": text, "finish_reason": "stop"} for text in texts]}


def endpoint(url, **settings):
    return HttpEndpoint(Server(url, "a-model", **settings))


def ask(url, *requests, **settings):
    with endpoint(url, **settings) as server:
        return server.run(server.model, requests)


def refusal(url, *requests, **settings):
    with pytest.raises(InputError) as refused:
        ask(url, *(requests or [Generate(ONE, text="a")]), **settings)
    sentence = str(refused.value)
    assert sentence.startswith(url) and "; expected" in sentence and "\n" not in sentence
    return sentence


def test_text_is_continued_with_the_settings_asked_for():
    with serving(said("one END two", "three")) as (url, fake):
        [answer] = ask(url, Generate(SAMPLING, text="a prompt"))
    [(path, _, body)] = fake.asked
    assert path == "/v1/completions"
    assert body == {
        "model": "a-model",
        "prompt": "a prompt",
        "n": 2,
        "max_tokens": 7,
        "temperature": 0.5,
        "top_p": 0.8,
        "stop": ["END"],
    }
    assert [one.text for one in answer.continuations] == ["one ", "three"]
    assert {one.finish_reason for one in answer.continuations} == {"stop"}


def test_messages_go_to_the_chat_and_silence_is_an_empty_text():
    content = [{"message": {"role": "assistant", "content": text}} for text in ("yes", None)]
    messages = (Message("system", "be brief"), Message("user", "well?"))
    with serving((200, {"choices": content})) as (url, fake):
        [answer] = ask(url, Generate(SAMPLING, messages=messages))
    [(path, _, body)] = fake.asked
    assert path == "/v1/chat/completions"
    assert body["messages"] == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "well?"},
    ]
    assert [one.text for one in answer.continuations] == ["yes", ""]


def likelihoods(text, values, best):
    told = {"token_logprobs": values, "top_logprobs": best, "tokens": ["x"] * len(values)}
    return 200, {"choices": [{"text": text, "logprobs": told}]}


def test_a_prompts_likelihoods_are_read_from_its_echo():
    values, best = [None, -1.0, -0.2, -3.0], [None, {"a": -0.5}, {"b": -0.2}, {"c": -0.1}]
    with serving(likelihoods("a b c d", values, best)) as (url, fake):
        [whole, end] = ask(
            url, ReadLikelihood(text="a b c d"), ReadLikelihood(text="a b c d", start=2)
        )
    assert (whole.log_likelihoods, whole.arg_max) == ((-1.0, -0.2, -3.0), (False, True, False))
    assert (end.log_likelihoods, end.arg_max) == ((-0.2, -3.0), (True, False))
    body = fake.asked[0][2]
    assert (body["echo"], body["logprobs"], body["max_tokens"]) == (True, 1, 0)


@pytest.mark.parametrize(
    "answer",
    [
        said("a continuation"),
        likelihoods("another text", [None, -1.0], [None, {"a": -1.0}]),
        likelihoods("a b", [None, -1.0], []),
    ],
)
def test_a_server_without_prompt_likelihoods_is_one_sentence(answer):
    with serving(answer) as (url, _):
        assert "echo together with logprobs" in refusal(url, ReadLikelihood(text="a b"))


def test_what_fails_for_a_while_is_asked_again():
    with serving(BUSY, (429, {}), said("done")) as (url, fake):
        [answer] = ask(url, Generate(ONE, text="a"), retries=2)
    assert answer.continuations[0].text == "done"
    assert len(fake.asked) == 3


def test_what_fails_for_good_is_asked_so_often_and_no_more():
    with serving(BUSY) as (url, fake):
        assert "answered 503" in refusal(url, retries=2)
    assert len(fake.asked) == 3


@pytest.mark.parametrize(
    ("status", "hint"), [(400, "a request that it takes"), (401, "key"), (404, "a model that")]
)
def test_what_asking_again_does_not_mend_is_not_asked_again(status, hint):
    with serving((status, {"error": {"message": "no\nsuch luck"}})) as (url, fake):
        sentence = refusal(url)
    assert f"answered {status}" in sentence and hint in sentence and "such luck" in sentence
    assert len(fake.asked) == 1


@pytest.mark.parametrize(
    "body",
    [
        b"<html>no API</html>",
        b"",
        [],
        {"choices": None},
        {"choices": []},
        {"choices": [{"finish_reason": "stop"}]},
        {"choices": [{"text": 5}]},
        {"choices": [{"text": "a"}, {"text": "b"}]},
    ],
)
@pytest.mark.parametrize("messages", [True, False])
def test_an_answer_that_is_none_is_one_sentence(body, messages):
    prompt = {"messages": (Message("user", "a"),)} if messages else {"text": "a"}
    with serving((200, body)) as (url, _):
        assert "cannot be read" in refusal(url, Generate(ONE, **prompt))


def test_a_server_that_is_not_there_is_one_sentence():
    with serving(said("a")) as (url, _):
        pass
    assert "found no server" in refusal(url, retries=0)


def test_a_slow_server_is_given_up():
    with serving((*said("late"), 0.5)) as (url, fake):
        sentence = refusal(url, timeout_seconds=0.1, retries=1)
    assert "no answer within 0.1 s in 2 tries" in sentence
    assert len(fake.asked) == 2


def test_so_many_requests_are_under_way_at_once_and_answered_in_order():
    def echo(body):
        return {"choices": [{"text": body["prompt"]}]}

    asked = [Generate(ONE, text=f"prompt {number}") for number in range(12)]
    with serving((200, echo, 0.05)) as (url, fake):
        answers = ask(url, *asked, at_once=3)
    assert [one.continuations[0].text for one in answers] == [one.text for one in asked]
    assert fake.most == 3


def test_the_key_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "for another server")
    monkeypatch.setenv("JUDGE_KEY", "secret")
    with serving(said("a")) as (url, fake):
        ask(url, Generate(ONE, text="a"), key_variable="JUDGE_KEY")
        ask(url, Generate(ONE, text="a"))
        monkeypatch.delenv("JUDGE_KEY")
        with pytest.raises(InputError, match="no key in the environment variable JUDGE_KEY"):
            endpoint(url, key_variable="JUDGE_KEY")
    sent = [headers["authorization"] for _, headers, _ in fake.asked]
    assert sent[0] == "Bearer secret"
    assert "another server" not in sent[1]


def test_it_is_awaited_as_the_pool_is():
    with serving(said("a")) as (url, _), endpoint(url) as server:
        assert isinstance(server, Endpoint)

        async def both():
            asked = [Generate(ONE, text="a")]
            return await asyncio.gather(
                server.submit(server.model, asked), server.submit(server.model, [])
            )

        one, none = asyncio.run(both())
    assert (one[0].model, none) == (server.model.digest, [])


def test_the_first_error_gives_up_what_waits():
    with serving((400, {}, 0.05)) as (url, fake):
        refusal(url, *[Generate(ONE, text="a")] * 50, at_once=1)
    assert len(fake.asked) < 5


@pytest.mark.parametrize(
    "request_of",
    [
        Generate(ONE, (1, 2)),
        Generate(ONE, embeddings=np.zeros((2, 3), np.float32)),
        ReadLikelihood((1, 2)),
    ],
)
def test_tokens_that_only_the_server_knows_are_refused(request_of):
    with serving(said("a")) as (url, fake):
        assert "expected text or messages" in refusal(url, request_of)
    assert fake.asked == []


def test_another_model_is_refused():
    with (
        serving(said("a")) as (url, fake),
        endpoint(url) as server,
        pytest.raises(InputError, match="asked for /base; expected a-model"),
    ):
        server.run(ModelRef("/base", "base"), [Generate(ONE, text="a")])
    assert fake.asked == []
    assert HttpEndpoint(Server("http://a/v1", "m")).model.digest != server.model.digest
