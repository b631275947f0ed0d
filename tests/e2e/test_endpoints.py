"""The same questions to vLLM, to transformers and to a server behind HTTP: the same answers."""

import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request

import numpy as np
import pytest

from rnr_dist.config.file import load_config
from rnr_dist.errors import InputError
from rnr_dist.generate.actor import cpu_environment
from rnr_dist.generate.http_endpoint import HttpEndpoint, Server
from rnr_dist.generate.requests import Generate, Message, ReadLikelihood
from rnr_dist.types import SamplingSettings
from rnr_dist.weights.checkpoints import resolve_model
from tests.e2e.command import TINY, wait_until

pytestmark = pytest.mark.timeout(900)

GREEDY = SamplingSettings(n=1, max_tokens=24, temperature=0.0, top_p=1.0)
STOPPED = SamplingSettings(n=1, max_tokens=40, temperature=0.0, top_p=1.0, stop=("\n", "Paris"))
PROMPTS = [
    "The capital of France is",
    "Two and two make",
    "Once upon a time there was a",
    "The river rises in the hills and",
    "Water boils at",
    "My favourite book is about a sailor who",
    "def add(a, b):",
    "The old clock on the tower struck twelve, and everybody in the square looked up to see",
]
QUESTION = (Message("user", "What is the capital of France?"),)
TEXT = "The tide turns twice a day, and the harbour with it."


def questions():
    """Prompts as text, as messages, with and without stop strings, and a text's likelihood."""
    return [
        *[Generate(GREEDY, text=prompt) for prompt in PROMPTS],
        *[Generate(STOPPED, text=prompt) for prompt in PROMPTS],
        Generate(GREEDY, messages=QUESTION),
        Generate(STOPPED, messages=QUESTION),
        ReadLikelihood(text=TEXT),
        ReadLikelihood(text=TEXT, start=4),
    ]


def answers_of(backend):
    from rnr_dist.bench import Bench

    settings = ["engines.count=1", "engines.dtype=float32", f"engines.backend={backend}"]
    with Bench(load_config(TINY, settings)) as bench:
        asked = [*questions(), *by_tokens(bench)]
        return bench.endpoint.run(bench.base, asked), bench.tokenizer


def by_tokens(bench):
    """The prompts as token ids, as embeddings, and drawn from a nucleus of one token."""
    from rnr_dist.reveal.embeddings import InputEmbeddings
    from rnr_dist.reveal.instructions import FeatureReader

    table = InputEmbeddings(FeatureReader(bench.base.checkpoint, bench.config.engines.dtype, False))
    ids = [tuple(bench.tokenizer.encode(prompt)) for prompt in PROMPTS]
    narrow = SamplingSettings(n=2, max_tokens=24, temperature=0.5, top_p=1e-6)
    return [
        *[Generate(GREEDY, one) for one in ids],
        *[Generate(GREEDY, embeddings=table.of(one)) for one in ids],
        *[Generate(narrow, one) for one in ids],
    ]


@pytest.fixture(scope="module")
def by_vllm():
    return answers_of("vllm")


@pytest.fixture(scope="module")
def by_transformers():
    return answers_of("transformers")


def alike(one, other):
    assert np.allclose(one.log_likelihoods, other.log_likelihoods, atol=1e-3)
    assert one.arg_max == other.arg_max
    for this, that in zip(one.continuations, other.continuations, strict=True):
        assert (this.text, this.finish_reason) == (that.text, that.finish_reason)


def test_transformers_says_token_by_token_what_vllm_says(by_vllm, by_transformers):
    (ours, _), (theirs, _) = by_transformers, by_vllm
    for one, other in zip(ours, theirs, strict=True):
        alike(one, other)
        assert [c.token_ids for c in one.continuations] == [
            c.token_ids for c in other.continuations
        ]


@pytest.mark.parametrize("found", ["by_vllm", "by_transformers"])
def test_prompts_of_every_kind_say_the_same(found, request):
    answers, _ = request.getfixturevalue(found)
    many = len(PROMPTS)
    text, rest = answers[:many], answers[len(questions()) :]
    for first in range(0, len(rest), many):
        for one, other in zip(text, rest[first : first + many], strict=True):
            said = one.continuations[0].token_ids
            assert {c.token_ids for c in other.continuations} == {said}


@pytest.mark.parametrize("found", ["by_vllm", "by_transformers"])
def test_texts_end_before_their_stop_string(found, request):
    answers, tokenizer = request.getfixturevalue(found)
    many = len(PROMPTS)
    stopped = [one.continuations[0] for one in answers[many : 2 * many]]
    assert any(one.finish_reason == "stop" for one in stopped)
    for one in stopped:
        assert not any(string in one.text for string in STOPPED.stop)
        said = tokenizer.decode(one.token_ids, skip_special_tokens=True)
        assert said.startswith(one.text)
        if any(string in said for string in STOPPED.stop):
            assert one.finish_reason == "stop"
    assert "Paris" in answers[2 * many].continuations[0].text
    assert "Paris" not in answers[2 * many + 1].continuations[0].text


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A vLLM server on loopback that asks for a key; its url."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    checkpoint = resolve_model("embedded:smollm2-135m-instruct").checkpoint
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", checkpoint]
    command += ["--served-model-name", "smollm", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--dtype", "float32", "--enforce-eager", "--max-model-len", "512"]
    command += ["--max-num-seqs", "16", "--kv-cache-memory-bytes", str(2**28)]
    command += ["--distributed-executor-backend", "uni"]
    environment = {**os.environ, **cpu_environment(2), "VLLM_API_KEY": "secret"}
    log = tmp_path_factory.mktemp("server") / "log.txt"
    with log.open("w") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=environment
        )

    def answers():
        assert process.poll() is None, log.read_text()[-3000:]
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False
        return True

    try:
        wait_until(answers, 300, f"the server does not answer, see {log}")
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(60)


def test_a_server_behind_http_answers_as_the_pool_does(by_vllm, server, monkeypatch):
    monkeypatch.setenv("SERVER_KEY", "secret")
    asked = questions()
    with HttpEndpoint(Server(server, "smollm", key_variable="SERVER_KEY")) as endpoint:
        found = endpoint.run(endpoint.model, asked, "asked")
        several = SamplingSettings(n=3, max_tokens=8, temperature=1.0, top_p=0.9)
        [drawn] = endpoint.run(endpoint.model, [Generate(several, text=PROMPTS[0])])
    for one, other in zip(found, by_vllm[0], strict=False):
        alike(one, other)
    assert {one.model for one in found} == {endpoint.model.digest}
    assert len({one.text for one in drawn.continuations}) > 1


def test_what_a_server_refuses_is_one_sentence(server, monkeypatch):
    asked = [Generate(GREEDY, text=PROMPTS[0])]
    with (
        HttpEndpoint(Server(server, "smollm")) as stranger,
        pytest.raises(InputError, match=r"answered 401 .*Server.key_variable"),
    ):
        stranger.run(stranger.model, asked)
    monkeypatch.setenv("SERVER_KEY", "secret")
    with (
        HttpEndpoint(Server(server, "nobody", key_variable="SERVER_KEY")) as other,
        pytest.raises(InputError, match="answered 404 to a request for nobody"),
    ):
        other.run(other.model, asked)
