"""SimNPO against its formula: by hand, and from all logits of one sequence at a time."""

import copy
import math

import pytest
import torch

from rnr_dist.config.training import Training
from rnr_dist.methods import simnpo
from rnr_dist.methods.simnpo import Simnpo
from rnr_dist.train.collate import Example, Item, collate
from rnr_dist.train.objectives import make_objective
from rnr_dist.train.trainable import make_trained
from rnr_dist.types import ModelRef
from tests.unit.tiny_models import llama

pytestmark = pytest.mark.usefixtures("one_thread")

SETTINGS = {"name": "simnpo", "beta": 1.5, "gamma": 0.4, "forget_weight": 0.7, "retain_weight": 0.3}
SHORT, LONG, NOTHING, KEPT = (
    Example((3, 9, 4, 1), 2),
    Example((21, 8, 30, 7, 7, 19, 2), 1),
    Example((4, 4), 2),
    Example((11, 2, 6, 2), 0),
)
ITEMS = [
    Item.of(forget=[SHORT], retain=[KEPT]),
    Item.of(forget=[LONG]),
    Item.of(forget=[NOTHING]),
]


@pytest.fixture(scope="module")
def trained():
    """A LoRA that has moved away from theta0."""
    torch.manual_seed(2)
    training = Training(objective=SETTINGS, rank=2, target_modules=["q_proj"])
    found = make_trained(copy.deepcopy(llama()), training, ModelRef("checkpoint", "digest"), 0)
    with torch.no_grad():
        for weight in weights_of(found):
            weight.add_(0.2 * torch.randn_like(weight))
    return found


def weights_of(trained):
    return [weight for weight in trained.model.parameters() if weight.requires_grad]


def objective(**changed):
    return make_objective(Training(objective={**SETTINGS, **changed}).objective)


def log_likelihood(model, example):
    """Sum of log p over the response, from all logits."""
    ids = torch.tensor([example.token_ids])
    logs = model(input_ids=ids).logits[0].double().log_softmax(-1)
    places = range(example.first_label, len(example.token_ids))
    return sum(logs[place - 1, example.token_ids[place]] for place in places)


def test_simnpo_is_the_formula(trained):
    made = objective()
    terms = made.terms(trained, collate(ITEMS, made.parts))
    wanted = {"retain": -0.3 * log_likelihood(trained.model, KEPT)}
    losses = []
    for example in (SHORT, LONG):
        mean = log_likelihood(trained.model, example) / example.labels
        losses.append(-2 / 1.5 * (-1.5 * mean - 0.4).sigmoid().log())
    wanted["simnpo"] = 0.7 * sum(losses)
    assert {name: count for name, (_, count) in terms.items()} == {"simnpo": 2, "retain": 3}
    assert made.counts(ITEMS) == {"simnpo": 2, "retain": 3}
    for name, (value, _) in terms.items():
        assert value.item() == pytest.approx(wanted[name].item(), rel=1e-5)
        found = torch.autograd.grad(value, weights_of(trained), retain_graph=True)
        for one, other in zip(
            found, torch.autograd.grad(wanted[name], weights_of(trained)), strict=True
        ):
            torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)


def test_simnpo_by_hand(monkeypatch):
    """Mean log-likelihoods of 0 and -2 nats, of 1 and 3 tokens, at beta 2.5 and gamma 0 and 1."""
    labels = torch.tensor([[-100, 5, -100, -100], [-100, 5, 6, 7]])
    nll, row = torch.tensor([0.0, 1.0, 2.0, 3.0]), torch.tensor([0, 1, 1, 1])
    monkeypatch.setattr(simnpo, "token_nll", lambda model, rows: (nll, row, None))

    def loss(gamma):
        made = objective(beta=2.5, gamma=gamma, forget_weight=1.0, retain=0)

        class Known:
            model = None

        return made.terms(Known(), {"forget": {"labels": labels}})["simnpo"][0].item()

    # .8 [ln 2 + ln(1 + e^-5)] and .8 [ln(1 + e) + ln(1 + e^-4)]
    assert loss(0.0) == pytest.approx(0.8 * (0.693147 + 0.006715), rel=1e-5)
    assert loss(1.0) == pytest.approx(0.8 * (1.313262 + 0.018150), rel=1e-5)


def test_a_long_response_counts_no_more_than_a_short_one(monkeypatch):
    """The same mean a token gives the same loss, and theta0 plays no part in it."""
    made = objective(retain=0)
    short = torch.tensor([[-100, 5, -100, -100]])
    long = torch.tensor([[-100, 5, 6, 7]])
    found = []
    for labels, count in ((short, 1), (long, 3)):
        told = torch.full((count,), 1.7), torch.zeros(count, dtype=torch.long), None
        monkeypatch.setattr(simnpo, "token_nll", lambda model, rows, told=told: told)
        value, _ = made.terms(type("Known", (), {"model": None})(), {"forget": {"labels": labels}})[
            "simnpo"
        ]
        found.append(value.item())
    assert found[0] == pytest.approx(found[1])
    assert found[0] == pytest.approx(0.7 * 2 / 1.5 * math.log(1 + math.exp(-1.5 * 1.7 + 0.4)))
    assert made.remembered == ()


def test_an_idle_rank_has_a_gradient_of_0(trained):
    made = objective()
    terms = made.terms(trained, collate([], made.parts))
    assert all((value.item(), count) == (0, 0) for value, count in terms.values())
    assert made.counts([]) == dict.fromkeys(terms, 0)
    found = torch.autograd.grad(sum(value for value, _ in terms.values()), weights_of(trained))
    assert not any(one.any() for one in found)


def test_its_authors_settings_are_its_defaults():
    settings = Simnpo.settings("epochs").training
    told = settings.objective.model_dump()
    assert (told["beta"], told["gamma"], told["forget_weight"]) == (2.5, 0.0, 0.1375)
    assert (settings.learning_rate, settings.parameters) == (1e-5, "full")
    assert Simnpo.settings("merge").training.parameters == "lora"
