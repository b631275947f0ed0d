"""The fakes have the interface of what they stand for: else tests would prove nothing of it."""

import inspect

import pytest

from rnr_dist.bench import Bench
from rnr_dist.generate.cluster_pool import PoolHandle
from rnr_dist.generate.endpoint import Endpoint
from rnr_dist.reveal.bandit_actor import BanditActor, RemoteBandit, remote_bandit
from rnr_dist.run.tracking import Tracker
from rnr_dist.score.actors import Scorer
from rnr_dist.tasks.task import PARTS, Task
from tests.unit.fakes import (
    Composed,
    FakeBench,
    FakeEndpoint,
    FakeScorer,
    FakeTask,
    FakeTracker,
    local_bandit,
)


def public(kind):
    """Names that others may use, with what their functions take."""
    return {
        name: list(inspect.signature(part).parameters) if inspect.isfunction(part) else None
        for name, part in inspect.getmembers(kind)
        if not name.startswith("_")
    }


@pytest.mark.parametrize(
    ("real", "fake"), [(Scorer, FakeScorer), (Tracker, FakeTracker), (Task, FakeTask)]
)
def test_a_fake_takes_what_the_real_one_takes(real, fake):
    wanted = {name: taken for name, taken in public(real).items() if taken is not None}
    found = public(fake)
    assert wanted and {name: found.get(name) for name in wanted} == wanted


def test_an_endpoint_is_one():
    assert isinstance(Composed(), Endpoint) and isinstance(FakeEndpoint(), Endpoint)
    for name in ("run", "submit"):
        assert public(FakeEndpoint)[name] == public(PoolHandle)[name] == public(Endpoint)[name]


def test_a_bench_has_all_that_one_has():
    bench = FakeBench()
    assert all(hasattr(bench, name) for name in public(Bench))
    assert all(hasattr(FakeTask(), part) for part in PARTS)


def test_a_local_bandit_is_started_and_asked_as_the_remote_one():
    taken = [list(inspect.signature(start).parameters) for start in (remote_bandit, local_bandit)]
    assert taken[0] == taken[1]
    # It hands every call to the actor's own class.
    asked, answered = public(RemoteBandit), public(BanditActor)
    assert asked and all(len(answered[name]) == len(taken) for name, taken in asked.items())
