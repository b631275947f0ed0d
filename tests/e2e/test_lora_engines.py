"""Real engines that serve composed models as adapters, several in one batch."""

import os

import pytest

from rnr_dist.config.file import load_config
from rnr_dist.generate.requests import Generate
from rnr_dist.types import SamplingSettings
from tests.e2e.command import TINY, alive, engines_of, wait_until

pytestmark = pytest.mark.timeout(900)

GREEDY = SamplingSettings(n=1, max_tokens=12, temperature=0.0, top_p=1.0)
PROMPTS = ["The capital of France is", "Two and two make", "Once upon a time there was a"]
SETTINGS = ["engines.count=1", "engines.dtype=float32", "engines.weights=lora", "engines.loras=2"]


@pytest.fixture(scope="module")
def bench():
    from rnr_dist.bench import Bench

    with Bench(load_config(TINY, SETTINGS)) as bench:
        _ = bench.endpoint
        yield bench
        engines = engines_of(os.getpid())
        assert engines
    wait_until(lambda: not alive(engines), 30, "engines outlive their pool")


def test_composed_models_answer_side_by_side_as_transformers_does(bench, tmp_path):
    """More models than the engine holds at once, all asked together, and the base between them."""
    import ray
    import torch
    from transformers import AutoModelForCausalLM

    from rnr_dist.weights.composition import add_to_model, save_adapter

    drawn = torch.Generator().manual_seed(0)
    base = bench.base
    adapters = [
        save_adapter(
            tmp_path / str(rank),
            {
                f"model.layers.{layer}.self_attn.v_proj": (
                    torch.randn(rank, 576, generator=drawn) * 0.05,
                    torch.randn(192, rank, generator=drawn) * 0.05,
                )
                for layer in range(30)
            },
            alpha=rank,
            base=base.checkpoint,
            trained_on="",
            side="forget",
        )
        for rank in (4, 3)
    ]
    models = [base, *(base.plus(-2.0, adapters[0]).plus(w, adapters[1]) for w in (0.5, 1.0, 1.5))]
    asked = [Generate(GREEDY, token_ids=tuple(bench.tokenizer.encode(text))) for text in PROMPTS]
    answers = ray.get([bench.endpoint.submit(model, asked) for model in models])
    found = []
    for model, several in zip(models, answers, strict=True):
        assert {answer.model for answer in several} == {model.digest}
        plain = AutoModelForCausalLM.from_pretrained(base.checkpoint, dtype=torch.float32)
        add_to_model(plain, model.terms)
        for request, answer in zip(asked, several, strict=True):
            inputs = torch.tensor([request.token_ids])
            output = plain.generate(
                inputs, max_new_tokens=12, do_sample=False, attention_mask=torch.ones_like(inputs)
            )
            found.append(answer.continuations[0].token_ids)
            assert found[-1] == tuple(output[0, inputs.shape[1] :].tolist())
    assert len(set(found)) > 2 * len(PROMPTS)  # the models differ
