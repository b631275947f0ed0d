"""A training that ends at a number of tokens instead of epochs."""

import pytest

from rnr_dist.config.training import Training, Workers
from rnr_dist.train.collate import Example, texts
from rnr_dist.train.worker import Job, plan_job
from rnr_dist.types import ModelRef

ITEMS = texts(Example(tuple(range(length)), 0) for length in (3, 5, 8, 13, 2, 9, 7))
TOTAL = 47


def plan(**training):
    settings = Training(batch_size=2, micro_batch_tokens=20, epochs=2, **training)
    job = Job(None, ModelRef("/x", "x"), settings, Workers(), None, 0)
    return plan_job(ITEMS, job, world_size=2)


def tokens(steps):
    return [sum(ITEMS[index].length for index in step.indices) for step in steps]


@pytest.mark.parametrize("budget", [1, 20, TOTAL, TOTAL + 1, 300])
def test_the_step_that_reaches_the_budget_is_the_last(budget):
    trained = tokens(plan(tokens=budget))
    assert sum(trained) >= budget > sum(trained[:-1])


def test_without_a_budget_epochs_count_and_the_order_is_the_same():
    whole = plan()
    assert sum(tokens(whole)) == 2 * TOTAL
    assert plan(tokens=TOTAL) == whole[:4]
