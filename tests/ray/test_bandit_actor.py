"""The bandit's real actor: beside the pure class, and killed."""

import asyncio
import os
import signal

import numpy as np
import pytest
import ray

from rnr_dist.config.reveal import Reveal
from rnr_dist.reveal.bandit_actor import BanditDiedError, remote_bandit
from rnr_dist.reveal.bandits import make_bandit

pytestmark = pytest.mark.usefixtures("ray_cluster")

FEATURES = np.random.default_rng(0).normal(size=(40, 6))
REVEAL = Reveal(arms=40, budget=10, initial=2, hidden=8, training_steps=50)


def test_one_pull_at_a_time_chooses_as_the_pure_class():
    pure = make_bandit(FEATURES, REVEAL, 0)
    expected = []
    for _ in range(8):
        if pure.stale:
            pure.train()
        arm = pure.select()
        pure.dispatch(arm)
        pure.observe(arm, arm / 40)
        expected.append(arm)

    async def pull() -> list[int]:
        arms = []
        told = []
        for _ in range(8):
            [(arm, _)] = await bandit.exchange(told, 1)
            told = [(arm, arm / 40)]
            arms.append(arm)
        return arms

    with remote_bandit(FEATURES, REVEAL, 0) as bandit:
        assert asyncio.run(pull()) == expected


def test_several_in_flight_train_beside_the_pulls():
    """Scores count though nobody waits for their training."""

    async def pull() -> list[int]:
        flying, arms, told = [], [], []
        for _ in range(20):
            taken = await bandit.exchange(told, 4 - len(flying))
            flying += [arm for arm, _ in taken]
            arm = flying.pop(0)
            arms.append(arm)
            told = [(arm, float(FEATURES[arm, 0] > 0))]
            await asyncio.sleep(0.05)
        return arms

    with remote_bandit(FEATURES, REVEAL, 0) as bandit:
        arms = asyncio.run(pull())
    assert len(set(arms)) == 20


def test_a_failed_pull_is_told_and_a_table_that_runs_out_gives_fewer():
    async def pull() -> tuple[list[int], list[int]]:
        first = [arm for arm, _ in await bandit.exchange([], 30)]
        told = [(arm, None if arm == first[0] else 0.5) for arm in first]
        return first, [arm for arm, _ in await bandit.exchange(told, 30)]

    with remote_bandit(FEATURES, REVEAL, 0) as bandit:
        first, rest = asyncio.run(pull())
    # What failed is not chosen again.
    assert sorted(first + rest) == list(range(40))


def test_a_killed_actor_is_a_bandit_that_died():
    with remote_bandit(FEATURES, REVEAL, 0) as bandit:
        asyncio.run(bandit.exchange([], 1))
        os.kill(ray.get(bandit.actor.process.remote()), signal.SIGKILL)
        with pytest.raises(BanditDiedError):
            asyncio.run(bandit.exchange([], 1))
