"""DPO, NPO, RMU, CMD and the orthogonal regulariser against their formulas."""

import math
from functools import partial

import pytest
import torch

from rnr_dist.config.training import Training
from rnr_dist.errors import InputError
from rnr_dist.methods.rmu import direction
from rnr_dist.train.collate import Item, collate, texts
from rnr_dist.train.objectives import check_items, make_objective
from rnr_dist.weights.composition import load_adapter
from tests.unit.objective_items import (
    ITEMS,
    LAYER,
    PAIRS,
    PROMPTED,
    SEED,
    A,
    B,
    C,
    E,
    moved_from,
    reference,
    run,
    weights_of,
)
from tests.unit.tiny_models import llama

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def theta0():
    return llama(layers=4).eval()


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return reference(tmp_path_factory.mktemp("terms"))


@pytest.fixture(scope="module")
def make(theta0, base):
    return partial(moved_from, theta0, base)


def assert_same(terms, wanted, weights):
    """Values and gradients of each term's numerator."""
    assert terms.keys() == wanted.keys()
    for name, (numerator, _) in terms.items():
        assert numerator.item() == pytest.approx(wanted[name].item(), rel=1e-4), name
        found = torch.autograd.grad(numerator, weights, retain_graph=True, allow_unused=True)
        expected = torch.autograd.grad(wanted[name], weights, retain_graph=True, allow_unused=True)
        for one, other, weight in zip(found, expected, weights, strict=True):
            one, other = (torch.zeros_like(weight) if g is None else g for g in (one, other))
            torch.testing.assert_close(one, other, atol=2e-3, rtol=1e-3)


def log_probability(model, example):
    """Sum of log p over the response, one sequence alone, from all logits."""
    ids = torch.tensor([example.token_ids])
    logs = model(input_ids=ids).logits[0].double().log_softmax(-1)
    places = range(example.first_label, len(example.token_ids))
    return sum((logs[place - 1, example.token_ids[place]] for place in places), logs.new_zeros(()))


def outputs(model, example, layer):
    """(T, d) output of a decoder layer, from a whole pass of one sequence alone."""
    states = []
    hook = (
        model.get_decoder()
        .layers[layer]
        .register_forward_hook(lambda _, __, output: states.append(output))
    )
    model(input_ids=torch.tensor([example.token_ids]))
    hook.remove()
    return states[0][0].double()


def test_dpo_is_the_formula(make, theta0):
    trained = make("dpo")
    losses = []
    for pair in PAIRS[:2]:
        [chosen], [rejected] = pair["chosen"], pair["rejected"]
        ratio = log_probability(trained.model, chosen) - log_probability(trained.model, rejected)
        before = log_probability(theta0, chosen) - log_probability(theta0, rejected)
        losses.append(-(0.3 * (ratio - before.detach())).sigmoid().log())
    retained = -log_probability(trained.model, C) - log_probability(trained.model, A)
    terms = run(trained, "dpo")
    assert_same(terms, {"dpo": sum(losses), "retain": 0.7 * retained}, weights_of(trained))
    assert [count for _, count in terms.values()] == [2, C.labels + A.labels]


def test_dpo_is_log_2_before_it_has_learnt(make):
    terms = run(make("dpo", moved=False), "dpo")
    assert terms["dpo"][0].item() == pytest.approx(2 * math.log(2), rel=1e-6)


def test_dpo_without_a_retain_weight_takes_no_retain_texts(make):
    objective = make_objective(Training(objective={"name": "dpo"}).objective)
    bare = [Item(tuple(pair for pair in item.members if pair[0] != "retain")) for item in PAIRS]
    check_items(objective, bare, "here")
    assert objective.terms(make("dpo"), collate(bare, objective.parts)).keys() == {"dpo"}
    with pytest.raises(InputError, match="here: training item 0 has 1 examples as the part retain"):
        check_items(objective, PAIRS, "here")


def test_npo_is_the_formula(make, theta0):
    trained = make("npo")
    losses = []
    for example in (A, E):
        ratio = (log_probability(trained.model, example) - log_probability(theta0, example)).exp()
        losses.append(2 / 0.3 * (1 + ratio**0.3).log())
    retained = -log_probability(trained.model, B) - log_probability(trained.model, C)
    terms = run(trained, "npo")
    assert_same(terms, {"npo": sum(losses), "retain": 0.7 * retained}, weights_of(trained))
    assert [count for _, count in terms.values()] == [2, B.labels + C.labels]


def test_npo_pushes_less_what_is_forgotten_further(make):
    """Its gradient is gradient ascent's times 2 r^beta / (1 + r^beta), r the ratio to theta0."""
    trained = make("npo")
    weights = weights_of(trained)
    [loss] = [value for name, (value, _) in run(trained, "npo", [Item.of(forget=[A])]).items()
              if name == "npo"]  # fmt: skip
    found = torch.autograd.grad(loss, weights)
    power = math.exp(0.3 * loss.item() / 2) - 1  # r^beta, from the loss itself
    ascent = torch.autograd.grad(log_probability(trained.model, A), weights)
    for one, other in zip(found, ascent, strict=True):
        torch.testing.assert_close(
            one, 2 * power / (1 + power) * other.float(), atol=1e-4, rtol=1e-3
        )


def test_rmu_is_the_formula(make, theta0):
    trained = make("rmu")
    unit = direction(16, SEED)
    assert (unit > 0).all() and unit.norm().item() == pytest.approx(1)
    forget = torch.cat([outputs(trained.model, x, LAYER) for x in (A, C)])
    retain = torch.cat([outputs(trained.model, x, LAYER) for x in (B, E)])
    frozen = torch.cat([outputs(theta0, x, LAYER) for x in (B, E)]).detach()
    means = {
        "forget": torch.nn.functional.mse_loss(forget, (2 * unit).double().expand_as(forget)),
        "retain": 50 * torch.nn.functional.mse_loss(retain, frozen),
    }
    counts = {"forget": len(forget), "retain": len(retain)}
    terms = run(trained, "rmu")
    assert {name: count for name, (_, count) in terms.items()} == counts
    wanted = {name: means[name] * counts[name] for name in means}
    assert_same(terms, wanted, weights_of(trained))


def test_rmu_trains_the_chosen_projections_alone_and_holds_what_has_not_moved(make):
    trained = make("rmu", moved=False)
    terms = run(trained, "rmu")
    assert terms["retain"][0].item() == 0
    sum(numerator for numerator, _ in terms.values()).backward()
    moved = {n for n, w in trained.model.named_parameters() if w.grad is not None and w.grad.any()}
    assert moved == {f"model.layers.{layer}.mlp.down_proj.weight" for layer in (0, 1, 2)}


def test_rmu_runs_no_later_layer_and_leaves_the_model_whole(make):
    trained = make("rmu")
    decoder, ran = trained.model.get_decoder(), []
    for number, layer in enumerate(decoder.layers):
        layer.register_forward_hook(lambda *_, number=number: ran.append(number))
    trained.model.get_output_embeddings().register_forward_hook(lambda *_: ran.append("head"))
    run(trained, "rmu")
    assert set(ran) == {0, 1, 2}
    assert len(decoder.layers) == 4
    with pytest.raises(InputError, match="layer 4: the model has 4 decoder layers"):
        settings = Training(objective={"name": "rmu", "layer": 4}).objective
        rmu = make_objective(settings)
        rmu.terms(trained, collate(ITEMS["rmu"], rmu.parts))


def test_cmd_is_the_formula(make):
    trained = make("cmd")

    def mean(example, places):
        ids = torch.tensor([example.token_ids])
        states = trained.model(input_ids=ids, output_hidden_states=True).hidden_states[-1][0]
        return states.double()[places].mean(0)

    def cosine(positive, response):
        prompt = mean(positive, slice(0, positive.first_label))
        spoken = mean(response, slice(response.first_label, None))
        return torch.cosine_similarity(prompt, spoken, dim=0) / 0.5

    def contrast(positive, *negatives):
        exponentials = [cosine(positive, x).exp() for x in (positive, *negatives)]
        return -(exponentials[0] / sum(exponentials)).log()

    nll = -sum(log_probability(trained.model, x) for x in (A, E, C, B))
    terms = run(trained, "cmd")
    wanted = {"nll": nll, "contrast": 0.5 * (contrast(A, B, C, E) + contrast(C, A))}
    assert_same(terms, wanted, weights_of(trained))
    assert terms["contrast"][1] == 2


@pytest.mark.parametrize("against", ["forget", "all"])
def test_overlap_is_the_formula_and_reaches_no_b(make, base, against):
    trained = make("orthogonal")
    settings = Training(objective={"name": "orthogonal", "against": against}).objective
    objective = make_objective(settings)
    overlap, count = objective.terms(trained, collate(texts(PROMPTED), objective.parts))["overlap"]
    news = dict(trained.model.named_parameters())
    wanted = 0
    for term in base.terms[: 3 if against == "all" else 2]:  # the last is the first once more
        for module, (old, _, _) in load_adapter(term.adapter.path).items():
            new = news[f"base_model.model.{module}.lora_A.default.weight"]
            wanted = wanted + sum((row @ column).abs() for row in old for column in new)
    assert count == 4
    assert_same({"overlap": (overlap / count, 1)}, {"overlap": 0.5 * wanted}, weights_of(trained))
    overlap.backward()
    touched = {name for name, weight in news.items() if weight.grad is not None}
    assert touched and not any("lora_B" in name for name in touched)


def test_orthogonal_directions_do_not_overlap(make, base):
    trained = make("orthogonal")
    olds = [load_adapter(term.adapter.path) for term in base.terms[:2]]
    with torch.no_grad():
        for name, weight in trained.model.named_parameters():
            module = name.removeprefix("base_model.model.").removesuffix(".lora_A.default.weight")
            rows = [old[module][0] for old in olds if module in old]
            if rows:
                _, _, directions = torch.linalg.svd(torch.cat(rows))
                weight.copy_(directions[-2:])  # 16 or 24 of them; the rows span at most 6
    assert run(trained, "orthogonal")["overlap"][0].item() == pytest.approx(0, abs=1e-3)
