"""What every objective must keep: counts, sums over items, idle ranks, padding, checkpoints."""

from functools import partial

import pytest
import torch

from rnr_dist.config.registry import METHODS, method_class
from rnr_dist.config.training import PLAIN
from rnr_dist.train.collate import collate
from rnr_dist.train.objectives import check_items, make_objective
from tests.unit.objective_items import ITEMS, moved_from, reference, run, training, weights_of
from tests.unit.tiny_models import llama

pytestmark = pytest.mark.usefixtures("one_thread")

every_objective = pytest.mark.parametrize("name", ITEMS)


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    return partial(moved_from, llama(layers=4).eval(), reference(tmp_path_factory.mktemp("terms")))


def test_every_objective_that_a_config_can_name_has_items():
    of_methods = {name for name in METHODS if method_class(name).Objective}
    assert set(ITEMS) == of_methods | set(PLAIN)


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
