"""DPO, RMU, CMD and the orthogonal regulariser against their formulas, and what all must keep."""

import copy
import math

import pytest
import torch

from rnr_dist.config.training import Training
from rnr_dist.errors import InputError
from rnr_dist.methods.rmu import direction
from rnr_dist.train.collate import Example, Item, collate, texts
from rnr_dist.train.objectives import check_items, make_objective
from rnr_dist.train.trainable import make_trained
from rnr_dist.types import ModelRef
from rnr_dist.weights.composition import load_adapter, save_adapter
from tests.unit.tiny_models import llama

pytestmark = pytest.mark.usefixtures("one_thread")

SEED = 5
LAYER = 2  # of RMU, of 4 layers
PROMPTED = [
    Example((3, 9, 4, 1, 8, 2), 2),
    Example((5, 5, 7), 0),
    Example((11, 2, 6, 2), 3),
    Example((4, 4), 2),  # no response
    Example((21, 8, 30, 7, 7, 19, 2), 4),
]
A, B, C, NOTHING, E = PROMPTED
PAIRS = [
    Item.of(chosen=[A], rejected=[B], retain=[C]),
    Item.of(chosen=[C], rejected=[E]),
    Item.of(chosen=[B], rejected=[NOTHING], retain=[A]),
]
TARGETS = [
    Item.of(forget=[A], learn=[B, E]),
    Item.of(forget=[E], learn=[C]),
    Item.of(forget=[NOTHING], learn=[A]),
]
ITEMS = {
    "causal": texts(PROMPTED),
    "orthogonal": texts(PROMPTED),
    "dpo": PAIRS,
    "rmu": [Item.of(forget=[A], retain=[B]), Item.of(forget=[C], retain=[E])],
    "icu": TARGETS,
    "kl": TARGETS,
    "kumpr": [Item.of(forget=[A]), Item.of(forget=[NOTHING]), Item.of(forget=[E])],
    "npo": [
        Item.of(forget=[A], retain=[B]),
        Item.of(forget=[E]),
        Item.of(forget=[NOTHING], retain=[C]),
    ],
    "llmu": [
        Item.of(forget=[A], mismatch=[B, C], learn=[E]),
        Item.of(forget=[E], mismatch=[A], learn=[B, C]),
        Item.of(forget=[NOTHING]),
    ],
    "cmd": [
        Item.of(positive=[A], negative=[B, C, E]),
        Item.of(positive=[E]),
        Item.of(positive=[C], negative=[NOTHING, A]),
        Item.of(positive=[B], negative=[NOTHING]),
    ],
}
SETTINGS = {
    "dpo": {"name": "dpo", "beta": 0.3, "retain_weight": 0.7},
    "npo": {"name": "npo", "beta": 0.3, "retain_weight": 0.7},
    "rmu": {"name": "rmu", "layer": LAYER, "coefficient": 2.0, "alpha": 50.0},
    "cmd": {"name": "cmd", "temperature": 0.5},
}


def training(name, **more):
    chosen = {"rank": 2, "alpha": 4, "target_modules": ["q_proj", "down_proj"]}
    if name == "rmu":
        chosen |= {"parameters": "matrices", "target_modules": ["down_proj"], "layers": [0, 1, 2]}
    return Training(objective=SETTINGS.get(name, {"name": name}), **(chosen | more))


@pytest.fixture(scope="module")
def theta0():
    return llama(layers=4).eval()


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A reference with two forget adapters, one of them twice, and a retain adapter."""
    folder, ref = tmp_path_factory.mktemp("terms"), ModelRef("checkpoint", "digest")
    torch.manual_seed(1)
    layers = {"forget": ["down_proj", "q_proj"], "again": ["q_proj"], "retain": ["q_proj"]}
    for name, ends in layers.items():
        factors = {
            f"model.layers.{layer}.{'mlp' if end == 'down_proj' else 'self_attn'}.{end}": (
                torch.randn(3, 24 if end == "down_proj" else 16),
                torch.randn(16, 3),
            )
            for layer in (0, 3)
            for end in ends
        }
        side = "retain" if name == "retain" else "forget"
        adapter = save_adapter(folder / name, factors, alpha=3, base="", trained_on="", side=side)
        ref = ref.plus(0.5, adapter)
    return ref.plus(-0.1, ref.terms[0].adapter)


@pytest.fixture
def make(theta0, base):
    """A `Trained` of a copy of theta0 that has moved away from it, in training mode."""

    def made(name, moved=True, **more):
        torch.manual_seed(2)
        trained = make_trained(copy.deepcopy(theta0), training(name, **more), base, SEED)
        with torch.no_grad():
            for weight in weights_of(trained) if moved else ():
                weight.add_(0.2 * torch.randn_like(weight))
        trained.model.train()
        return trained

    return made


def weights_of(trained):
    return [weight for weight in trained.model.parameters() if weight.requires_grad]


def run(trained, name, items=None, **more):
    objective = make_objective(training(name, **more).objective)
    items = ITEMS[name] if items is None else items
    return objective.terms(trained, collate(items, objective.parts))


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


# --- each against its formula ---


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


# --- what all of them keep ---

every_objective = pytest.mark.parametrize("name", ITEMS)


@every_objective
def test_counts_are_known_before_the_model_runs(name, make):
    objective = make_objective(training(name).objective)
    check_items(objective, ITEMS[name], "here")
    terms = run(make(name), name)
    assert objective.counts(ITEMS[name]) == {key: count for key, (_, count) in terms.items()}
    assert objective.counts([]) == dict.fromkeys(terms, 0)


@every_objective
def test_a_batch_is_the_sum_of_its_items(name, make):
    trained = make(name)
    parts = [run(trained, name, part) for part in ([item] for item in ITEMS[name])]
    for key, (numerator, count) in run(trained, name).items():
        total = sum(part[key][0] for part in parts)
        assert numerator.item() == pytest.approx(total.item(), rel=1e-5, abs=1e-6)
        assert count == sum(part[key][1] for part in parts)


@every_objective
def test_an_idle_rank_has_a_gradient_of_0_and_as_many_passes(name, make):
    trained = make(name)
    passes = []
    trained.model.get_input_embeddings().register_forward_hook(lambda *_: passes.append(1))
    run(trained, name)
    usual = len(passes)
    terms = run(trained, name, [])
    assert len(passes) == 2 * usual
    assert all((numerator.item(), count) == (0, 0) for numerator, count in terms.values())
    sum(numerator for numerator, _ in terms.values()).backward()
    gradients = [weight.grad for weight in weights_of(trained)]
    assert all(gradient is not None and not gradient.any() for gradient in gradients)


@every_objective
def test_padding_has_no_say(name, make):
    trained, objective = make(name), make_objective(training(name).objective)
    batch = collate(ITEMS[name], objective.parts)
    before = objective.terms(trained, batch)
    for rows in batch.values():
        rows["input_ids"][rows["attention_mask"] == 0] = 17
    for key, (numerator, _) in objective.terms(trained, batch).items():
        assert torch.equal(numerator, before[key][0])


@every_objective
def test_checkpoints_change_nothing(name, make):
    gradients = []
    for checkpointing in (False, True):
        trained = make(name, gradient_checkpointing=checkpointing)
        terms = run(trained, name)
        recomputed = []
        trained.model.get_decoder().layers[0].self_attn.register_forward_pre_hook(
            lambda *_, recomputed=recomputed: recomputed.append(1)
        )
        loss = sum(numerator for numerator, _ in terms.values())
        gradients.append(torch.autograd.grad(loss, weights_of(trained), allow_unused=True))
        assert bool(recomputed) == checkpointing
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


# The regulariser asks for a LoRA; RMU trains matrices.
@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        *((name, None) for name in sorted(ITEMS)),
        *((name, "full") for name in sorted(ITEMS.keys() - {"orthogonal", "rmu"})),
    ],
)
def test_logits_in_parts_give_the_losses_and_gradients_of_all_at_once(make, name, parameters):
    chosen = {"parameters": parameters} if parameters else {}
    found = []
    for parts in (1, 3):
        trained = make(name, moved=False, **chosen)
        trained.head_parts = parts
        trained.remember(example for item in ITEMS[name] for _, example in item.members)
        torch.manual_seed(3)
        with torch.no_grad():
            for weight in weights_of(trained):
                weight.add_(0.1 * torch.randn_like(weight))
        loss = sum(numerator for numerator, _ in run(trained, name, **chosen).values())
        gradients = torch.autograd.grad(loss, weights_of(trained), allow_unused=True)
        found.append((loss, gradients))
    (whole, wanted), (parted, gradients) = found
    torch.testing.assert_close(parted, whole, atol=0, rtol=1e-6)
    for one, other in zip(gradients, wanted, strict=True):
        if other is not None:
            torch.testing.assert_close(one, other, atol=2e-5 * float(other.abs().max()), rtol=1e-5)
