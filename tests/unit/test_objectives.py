"""Objectives against the plain formula, on random models of a few thousand weights."""

from types import SimpleNamespace

import pytest
import torch

from rnr_dist.train.collate import Example, collate, texts
from rnr_dist.train.objectives.causal import Causal
from tests.unit.tiny_models import capped_gemma, llama

EXAMPLES = [
    Example((3, 9, 4, 1, 8, 2), 2),
    Example((5, 5, 7), 0),
    Example((11, 2, 6, 2), 3),
    Example((4, 4), 2),
]


@pytest.fixture(params=[llama, capped_gemma])
def model(request):
    return request.param()


@pytest.fixture(params=[1, 3, 9])
def parts(request):
    """That labels go through the head in: together, in uneven parts, in more parts than labels."""
    return request.param


def nll(model, batch, parts=1):
    """(numerator, denominator); nothing of theta0 is asked for."""
    return Causal().terms(SimpleNamespace(model=model, head_parts=parts), batch)["nll"]


def batch_of(examples):
    return collate(texts(examples), Causal.parts)


def by_the_formula(model, example):
    """Sum of -log p of the response tokens, one sequence alone, from the full logits."""
    ids = torch.tensor([example.token_ids])
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    logs = logits[0].double().log_softmax(-1)
    places = range(max(example.prompt_tokens, 1), len(example.token_ids))
    return -sum(logs[place - 1, example.token_ids[place]] for place in places)


def test_causal_is_the_summed_nll_of_the_response_tokens(model, parts):
    numerator, denominator = nll(model, batch_of(EXAMPLES), parts)
    expected = sum(by_the_formula(model, example) for example in EXAMPLES)
    assert denominator == 4 + 2 + 1 + 0
    assert numerator.item() == pytest.approx(expected.item(), rel=1e-5)


def test_causal_gradients_are_those_of_the_formula(model, parts):
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    numerator, _ = nll(model, batch_of(EXAMPLES), parts)
    found = torch.autograd.grad(numerator, weights)
    wanted = torch.autograd.grad(sum(by_the_formula(model, e) for e in EXAMPLES), weights)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=2e-4, rtol=1e-4)


def test_padding_tokens_have_no_say(model):
    batch = batch_of(EXAMPLES)
    before = nll(model, batch)[0]
    batch["text"]["input_ids"][batch["text"]["attention_mask"] == 0] = 17
    assert torch.equal(before, nll(model, batch)[0])


def test_an_idle_rank_contributes_nothing_but_can_run_backward(model, parts):
    numerator, denominator = nll(model, batch_of([]), parts)
    numerator.backward()
    assert (numerator.item(), denominator) == (0, 0)
    assert all(not weight.grad.any() for weight in model.parameters() if weight.grad is not None)


def test_the_head_sees_only_places_with_a_label_a_part_at_a_time(model):
    seen = []
    model.get_output_embeddings().register_forward_hook(
        lambda _, inputs, __: seen.append(inputs[0].shape[-2])
    )
    nll(model, batch_of(EXAMPLES))
    assert seen == [7]
    assert model(torch.tensor([[1, 2, 3]])).logits.shape == (1, 3, 53)  # the decoder runs again
    seen.clear()
    numerator, _ = nll(model, batch_of(EXAMPLES), 3)
    assert seen == [3, 2, 2]
    numerator.backward()
    assert sorted(seen) == [2, 2, 2, 2, 3, 3]  # no logits were kept for the backward pass


def test_the_decoder_runs_once_whatever_the_parts(model, parts):
    ran = []
    for layer in model.get_decoder().layers:
        layer.register_forward_hook(lambda *_: ran.append(1))
    nll(model, batch_of(EXAMPLES), parts)[0].backward()
    assert len(ran) == len(model.get_decoder().layers)
