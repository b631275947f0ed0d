"""ICU, KUMPR, KL and LLMU against their formulas, with a LoRA and with all weights trained."""

import copy
from dataclasses import replace

import pytest
import torch
from transformers import LlamaForCausalLM

from rnr_dist.config.training import Training
from rnr_dist.errors import InputError
from rnr_dist.train.collate import Example, Item, collate, pad
from rnr_dist.train.objectives import make_objective
from rnr_dist.train.passes import require_plain_head
from rnr_dist.train.trainable import make_trained
from rnr_dist.train.worker import SUMMARY
from rnr_dist.types import ModelRef
from tests.unit.tiny_models import capped_gemma, llama

pytestmark = pytest.mark.usefixtures("one_thread")

A = Example((3, 9, 4, 1, 8, 2), 2)
B = Example((5, 5, 7), 1)
C = Example((11, 2, 6, 2), 3)
D = Example((21, 8, 30, 7, 7, 19, 2), 0)
LATE = Example(D.token_ids, 4)  # the same tokens, fewer of them counted
TARGETS = [Item.of(forget=[A], learn=[B, D]), Item.of(forget=[C], learn=[D])]
BASE = ModelRef("checkpoint", "digest")


@pytest.fixture(scope="module")
def theta0():
    return llama().eval()


@pytest.fixture(params=["lora", "full"])
def make(theta0, request):
    """A `Trained` that has moved away from theta0, of which it remembers all examples."""

    def made(objective, moved=True):
        training = Training(
            objective=objective, parameters=request.param, rank=2, target_modules=["q_proj"]
        )
        torch.manual_seed(2)
        trained = make_trained(copy.deepcopy(theta0), training, BASE, 0)
        trained.remember([A, B, C, D, LATE])
        with torch.no_grad():
            for weight in weights_of(trained) if moved else ():
                weight.add_(0.1 * torch.randn_like(weight))
        return trained, make_objective(training.objective)

    return made


def weights_of(trained):
    return [weight for weight in trained.model.parameters() if weight.requires_grad]


def logs(model, example):
    """(labels, V) log probabilities at the labels, one sequence alone, and the labels."""
    ids = torch.tensor([example.token_ids])
    found = model(input_ids=ids).logits[0].double().log_softmax(-1)
    return found[example.first_label - 1 : -1], ids[0, example.first_label :]


def nll(model, example):
    found, labels = logs(model, example)
    return -found.gather(1, labels[:, None]).sum()


def divergence(theta0, model, example, entropy=False):
    with torch.no_grad():
        p, _ = logs(theta0, example)
    q, _ = logs(model, example)
    return (p.exp() * (-q if entropy else p - q)).sum()


def assert_same(terms, wanted, trained):
    assert terms.keys() == wanted.keys()
    weights = weights_of(trained)
    for name, (numerator, _) in terms.items():
        assert numerator.item() == pytest.approx(wanted[name].item(), rel=1e-5, abs=1e-5), name
        found = torch.autograd.grad(numerator, weights, retain_graph=True, allow_unused=True)
        expected = torch.autograd.grad(wanted[name], weights, retain_graph=True, allow_unused=True)
        for one, other, weight in zip(found, expected, weights, strict=True):
            one, other = (torch.zeros_like(weight) if g is None else g for g in (one, other))
            torch.testing.assert_close(one, other, atol=2e-3, rtol=1e-3)


def counts(terms):
    return {name: count for name, (_, count) in terms.items()}


@pytest.mark.parametrize("kind", ["kl", "cross_entropy"])
def test_icu_is_the_formula(make, theta0, kind):
    trained, objective = make({"name": "icu", "divergence": kind})
    model = trained.model
    wanted = {
        "forget": -nll(model, A) - nll(model, C),
        "learn": 0.5 * (nll(model, B) + 2 * nll(model, D)),
        "kl": sum(divergence(theta0, model, x, kind != "kl") for x in (B, D, D)),
    }
    terms = objective.terms(trained, collate(TARGETS, objective.parts))
    assert_same(terms, wanted, trained)
    learnt = B.labels + 2 * D.labels
    assert counts(terms) == {"forget": A.labels + C.labels, "learn": learnt, "kl": learnt}
    assert objective.counts(TARGETS) == counts(terms)


@pytest.mark.parametrize("kind", ["kl", "cross_entropy"])
@pytest.mark.parametrize("method", ["icu", "kl", "llmu"])
def test_what_is_retained_is_held_by_the_divergence_alone(make, theta0, method, kind):
    if method != "icu" and kind != "kl":
        return
    more = {"divergence": kind} if method == "icu" else {}
    trained, objective = make({"name": method, "kl_weight": 0.7, **more})
    _, without = make({"name": method, "kl_weight": 0.7, "retain": 0, **more})
    held = [D, LATE, LATE]
    items = [Item((*TARGETS[0].members, *(("retain", one) for one in held[:2])))]
    items += [Item((*TARGETS[1].members, ("retain", held[2])))]
    assert "retain" not in without.parts
    before = without.terms(trained, collate(TARGETS, without.parts))
    terms = objective.terms(trained, collate(items, objective.parts))
    more = 0.7 * sum(divergence(theta0, trained.model, one, kind != "kl") for one in held)
    wanted = {name: value for name, (value, _) in before.items()}
    assert_same(terms, {**wanted, "kl": wanted["kl"] + more}, trained)
    added = sum(one.labels for one in held)
    assert counts(terms) == {**counts(before), "kl": counts(before)["kl"] + added}
    assert objective.counts(items) == counts(terms)
    assert set(objective.remembered) == {"learn", "retain"}


def test_a_token_that_is_forgotten_is_pushed_no_further(make):
    above = []
    ends = {A: (9, 9, 9, 7, 5, 6), C: (9, 9, 6, 6)}

    def bounded(model, example):
        found, labels = logs(model, example)
        each = -found.gather(1, labels[:, None])[:, 0]
        end = torch.tensor(ends[example][example.first_label :]).double()
        above.extend((each > end).tolist())
        return torch.where(each > end, end, each).sum()

    trained, objective = make({"name": "icu"})
    items = [
        Item.of(forget=[replace(example, ceilings=end)], learn=[D]) for example, end in ends.items()
    ]
    found = objective.terms(trained, collate(items, objective.parts))
    wanted = {"forget": -bounded(trained.model, A) - bounded(trained.model, C)}
    assert_same({"forget": found["forget"]}, wanted, trained)
    assert any(above) and not all(above)


def test_by_sequences_only_what_is_counted_changes(make):
    trained, objective = make({"name": "icu", "reduction": "sequence"})
    _, by_token = make({"name": "icu"})
    batch = collate(TARGETS, objective.parts)
    terms, others = objective.terms(trained, batch), by_token.terms(trained, batch)
    assert counts(terms) == {"forget": 2, "learn": 3, "kl": 3} == objective.counts(TARGETS)
    for name in terms:
        assert torch.equal(terms[name][0], others[name][0])


@pytest.mark.parametrize(
    ("weight", "left"),
    [
        ("forget_weight", {"learn", "kl"}),
        ("learn_weight", {"forget", "kl"}),
        ("kl_weight", {"forget", "learn"}),
    ],
)
def test_each_term_can_be_switched_off(make, weight, left):
    trained, objective = make({"name": "icu", weight: 0})
    terms = objective.terms(trained, collate(TARGETS, objective.parts))
    assert terms.keys() == left == objective.counts(TARGETS).keys()
    _, whole = make({"name": "icu"})
    full = whole.terms(trained, collate(TARGETS, whole.parts))
    for name in terms:
        assert terms[name][0].item() == pytest.approx(full[name][0].item(), rel=1e-6)


def test_at_theta0_there_is_no_divergence_and_k_is_its_entropy(make, theta0):
    trained, objective = make({"name": "icu"}, moved=False)
    batch = collate(TARGETS, objective.parts)
    kl, _ = objective.terms(trained, batch)["kl"]
    assert kl.item() == pytest.approx(0, abs=1e-5)
    gradients = torch.autograd.grad(kl, weights_of(trained), allow_unused=True)
    assert all(g is None or g.abs().max() < 1e-4 for g in gradients)
    _, crossed = make({"name": "icu", "divergence": "cross_entropy"}, moved=False)
    k, _ = crossed.terms(trained, batch)["kl"]
    assert k.item() == pytest.approx(
        sum(divergence(theta0, theta0, x, entropy=True).item() for x in (B, D, D)), rel=1e-5
    )


def test_kl_and_entropy_have_one_gradient(make):
    trained, objective = make({"name": "icu"})
    _, crossed = make({"name": "icu", "divergence": "cross_entropy"})
    batch = collate(TARGETS, objective.parts)
    found = [
        torch.autograd.grad(each.terms(trained, batch)["kl"][0], weights_of(trained))
        for each in (objective, crossed)
    ]
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_kumpr_is_gradient_ascent(make):
    trained, objective = make({"name": "kumpr"})
    items = [Item.of(forget=[A]), Item.of(forget=[D])]
    terms = objective.terms(trained, collate(items, objective.parts))
    assert_same(terms, {"forget": -nll(trained.model, A) - nll(trained.model, D)}, trained)


def test_kl_is_icu_that_learns_nothing(make, theta0):
    trained, objective = make({"name": "kl", "kl_weight": 0.3})
    terms = objective.terms(trained, collate(TARGETS, objective.parts))
    wanted = {
        "forget": -nll(trained.model, A) - nll(trained.model, C),
        "kl": 0.3 * sum(divergence(theta0, trained.model, x) for x in (B, D, D)),
    }
    assert_same(terms, wanted, trained)


def test_llmu_is_the_formula(make, theta0):
    trained, objective = make({"name": "llmu"})
    items = [Item.of(forget=[A], mismatch=[C, D], learn=[B]), Item.of(forget=[D], learn=[C])]
    terms = objective.terms(trained, collate(items, objective.parts))
    model = trained.model
    wanted = {
        "forget": -0.5 * (nll(model, A) + nll(model, D)),
        "mismatch": nll(model, C) + nll(model, D),
        "kl": divergence(theta0, model, B) + divergence(theta0, model, C),
    }
    assert_same(terms, wanted, trained)
    assert objective.counts(items) == counts(terms)


def test_dpo_takes_theta0_from_memory_as_from_the_model(make, theta0):
    trained, objective = make({"name": "dpo"})
    items = [Item.of(chosen=[B], rejected=[A]), Item.of(chosen=[D], rejected=[C])]
    loss, _ = objective.terms(trained, collate(items, objective.parts))["dpo"]
    wanted = 0
    for chosen, rejected in ((B, A), (D, C)):
        gained = [nll(m, rejected) - nll(m, chosen) for m in (trained.model, theta0)]
        wanted -= (0.1 * (gained[0] - gained[1])).sigmoid().log()
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)


def test_all_weights_are_saved_as_a_checkpoint_of_their_own(make, tmp_path, theta0):
    trained, _ = make({"name": "icu"})
    if len(weights_of(trained)) < 10:  # the LoRA
        return
    theta0.save_pretrained(tmp_path / "base")
    (tmp_path / "base" / "tokenizer.json").write_text("{}")
    (tmp_path / "base" / SUMMARY).write_text("how the base came about")
    trained.base = ModelRef(str(tmp_path / "base"), "digest")
    (tmp_path / "saved").mkdir()
    trained.save(tmp_path / "saved")
    again = LlamaForCausalLM.from_pretrained(tmp_path / "saved")
    ids = torch.tensor([D.token_ids])
    assert torch.equal(again(ids).logits, trained.model.eval()(ids).logits)
    assert (tmp_path / "saved" / "tokenizer.json").read_text() == "{}"
    assert not (tmp_path / "saved" / SUMMARY).exists()


def test_a_model_that_caps_its_logits_is_refused(theta0):
    rows = pad([D])
    require_plain_head(theta0, rows)
    with pytest.raises(InputError, match="Gemma2ForCausalLM scales or caps its logits"):
        require_plain_head(capped_gemma(), rows)
