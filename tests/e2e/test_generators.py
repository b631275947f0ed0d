"""The pool with a real engine: weights exchanged, likelihoods right, a killed engine survived."""

import os
import signal
import time

import numpy as np
import pytest

from rnr_dist.config.file import load_config
from rnr_dist.generate.requests import Generate, ReadLikelihood
from rnr_dist.types import SamplingSettings
from tests.e2e.command import TINY, alive, engines_of, wait_until

pytestmark = pytest.mark.timeout(900)

GREEDY = SamplingSettings(n=1, max_tokens=12, temperature=0.0, top_p=1.0)
PROMPTS = ["The capital of France is", "Two and two make", "Once upon a time there was a"]


@pytest.fixture(scope="module")
def bench():
    from rnr_dist.bench import Bench

    with Bench(load_config(TINY, ["engines.count=1", "engines.dtype=float32"])) as bench:
        _ = bench.endpoint
        yield bench
        engines = engines_of(os.getpid())
        assert engines
    wait_until(lambda: not alive(engines), 30, "engines outlive their pool")


@pytest.fixture(scope="module")
def model(bench):
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(bench.base.checkpoint, dtype=torch.float32)


def test_an_engine_is_one_process_on_a_core_of_its_own(bench):
    [engine] = [p for p in engines_of(os.getpid()) if "VLLM::" in p.cmdline()[0]]
    assert engine.cmdline()[0].startswith("VLLM::EngineCore")
    assert len(engine.cpu_affinity()) == 1


def requests(bench):
    return [Generate(GREEDY, tuple(bench.tokenizer.encode(prompt))) for prompt in PROMPTS]


def texts(responses):
    return [response.continuations[0].text for response in responses]


def test_greedy_tokens_equal_transformers(bench, model):
    expected = []
    for request in requests(bench):
        import torch

        inputs = torch.tensor([request.token_ids])
        output = model.generate(
            inputs, max_new_tokens=12, do_sample=False, attention_mask=torch.ones_like(inputs)
        )
        expected.append(tuple(output[0, inputs.shape[1] :].tolist()))
    answers = bench.endpoint.run(bench.base, requests(bench))
    assert [answer.continuations[0].token_ids for answer in answers] == expected


def test_prompt_embeddings_equal_token_prompts(bench):
    from rnr_dist.reveal.embeddings import InputEmbeddings
    from rnr_dist.reveal.instructions import FeatureReader

    table = InputEmbeddings(FeatureReader(bench.base.checkpoint, bench.config.engines.dtype, False))
    embedded = [Generate(GREEDY, embeddings=table.of(r.token_ids)) for r in requests(bench)]
    by_tokens = texts(bench.endpoint.run(bench.base, requests(bench)))
    assert texts(bench.endpoint.run(bench.base, embedded)) == by_tokens


def test_likelihoods_equal_transformers(bench, model):
    import torch

    ids = bench.tokenizer.encode("The tide turns twice a day, and the harbour with it.")
    [answer] = bench.endpoint.run(bench.base, [ReadLikelihood(tuple(ids), start=3)])
    with torch.inference_mode():
        logits = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    expected = [logits[position - 1, ids[position]].item() for position in range(3, len(ids))]
    assert np.allclose(answer.log_likelihoods, expected, atol=1e-3)


def test_weights_are_exchanged_and_come_back(bench, model, tmp_path):
    """The engine with a composed model equals transformers with the same; the base returns."""
    import torch

    from rnr_dist.weights.composition import add_to_model, save_adapter

    generator = torch.Generator().manual_seed(0)
    factors = {
        f"model.layers.{layer}.self_attn.v_proj": (
            torch.randn(4, 576, generator=generator) * 0.05,
            torch.randn(192, 4, generator=generator) * 0.05,
        )
        for layer in range(30)
    }
    base = bench.base
    adapter = save_adapter(
        tmp_path / "adapter", factors, alpha=4, base=base.checkpoint, trained_on="", side="forget"
    )
    composed = base.plus(-2.0, adapter)
    before = texts(bench.endpoint.run(base, requests(bench)))
    changed = bench.endpoint.run(composed, requests(bench))
    assert all(answer.model == composed.digest for answer in changed)
    assert texts(changed) != before
    import copy

    other = copy.deepcopy(model)
    add_to_model(other, composed.terms)
    inputs = torch.tensor([requests(bench)[0].token_ids])
    output = other.generate(
        inputs, max_new_tokens=12, do_sample=False, attention_mask=torch.ones_like(inputs)
    )
    # The composed weights are stored in the checkpoint's bf16: the first tokens agree.
    assert changed[0].continuations[0].token_ids[:4] == tuple(output[0, inputs.shape[1] :][:4])
    assert texts(bench.endpoint.run(base, requests(bench))) == before


def test_nucleus_sampling_stays_in_the_nucleus(bench, model):
    import torch

    ids = tuple(bench.tokenizer.encode("The weather today is"))
    sampling = SamplingSettings(n=200, max_tokens=1, temperature=1.0, top_p=0.5)
    [answer] = bench.endpoint.run(bench.base, [Generate(sampling, ids)])
    drawn = {choice.token_ids[0] for choice in answer.continuations}
    with torch.inference_mode():
        share = model(torch.tensor([ids])).logits[0, -1].softmax(-1).sort(descending=True)
    inside = int((share.values.cumsum(-1) - share.values < 0.5).sum())
    assert drawn <= set(share.indices[:inside].tolist())
    assert len(drawn) > inside / 4


def test_a_killed_engine_loses_nothing(bench):
    """SIGKILL to the actor that holds the engine: its requests are answered all the same."""
    sampling = SamplingSettings(n=2, max_tokens=60, temperature=1.0, top_p=0.9)
    many = [Generate(sampling, tuple(bench.tokenizer.encode(p))) for p in PROMPTS * 15]
    reference = bench.endpoint.submit(bench.base, many)
    time.sleep(2)
    [actor] = [p for p in engines_of(os.getpid()) if p.cmdline()[0].startswith("ray::Generator")]
    os.kill(actor.pid, signal.SIGKILL)
    import ray

    answers = ray.get(reference, timeout=300)
    assert len(answers) == len(many)
    assert all(len(answer.continuations) == 2 for answer in answers)
