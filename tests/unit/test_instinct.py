"""`instinct` and `paper` mode against the sequential algorithm with autograd everywhere."""

import numpy as np
import pytest
import torch

from rnr_dist.reveal.instinct import Instinct
from rnr_dist.reveal.network import BanditSettings, Parameters
from tests.unit.brute_force import autograd_gradient, features, flat, output

ARMS, INITIAL, STEPS, RIDGE, EXPLORATION = 20, 4, 25, 0.1, 0.7


pytestmark = pytest.mark.usefixtures("one_thread")


def reference_arms(
    table: np.ndarray, reward: np.ndarray, search: Instinct, subset: int, pulls: int
) -> list[int]:
    """The reference's loop, line by line: materialised gradients, torch's own Adam."""
    x = torch.as_tensor(table)
    start = search.initial_weights
    order = np.random.default_rng([0, 0]).permutation(ARMS)
    arms = [int(arm) for arm in order[:INITIAL]]
    theta, u = start, torch.full_like(flat(start), RIDGE)
    mean, std = torch.zeros(x.shape[1]), torch.ones(x.shape[1])
    for choice in range(pulls - INITIAL):
        drawn = np.random.default_rng([0, 1, choice]).choice(ARMS, subset, replace=False)
        rows = [(x[arm] - mean) / std for arm in drawn]
        gradients = [autograd_gradient(row, theta, 1.0) for row in rows]
        sigma = [(RIDGE * EXPLORATION * g * g / u).sum().sqrt() for g in gradients]
        bounds = [output(row, theta, 1.0) + s for row, s in zip(rows, sigma, strict=True)]
        best = int(torch.stack(bounds).argmax())
        u = u + gradients[best].square()
        arms.append(int(drawn[best]))
        pulled = x[arms]
        mean, std = pulled.mean(0), pulled.std(0) + 1e-30
        scaled, target = (pulled - mean) / std, torch.as_tensor(reward[arms])
        theta = Parameters(*(weight.clone().requires_grad_() for weight in start))
        adam = torch.optim.Adam(theta, lr=1e-3, weight_decay=RIDGE / len(arms))
        for _ in range(STEPS):
            adam.zero_grad()
            outputs = torch.stack([output(row, theta, 1.0) for row in scaled])
            torch.nn.functional.mse_loss(outputs, target).backward()
            adam.step()
        theta = Parameters(*(weight.detach() for weight in theta))
    return arms


def bandit(table: np.ndarray, subset: int | None) -> Instinct:
    return Instinct(
        table,
        seed=0,
        settings=BanditSettings(
            hidden=6,
            ridge=RIDGE,
            exploration=EXPLORATION,
            initial=INITIAL,
            subset=subset,
            steps=STEPS,
        ),
    )


def pull(search: Instinct, reward: np.ndarray) -> tuple[int, np.ndarray]:
    if search.stale:
        search.train()
    arm = search.select()
    pick = search.dispatch(arm)
    search.observe(arm, float(reward[arm]))
    return arm, pick


@pytest.mark.parametrize("subset", [8, None])
def test_replays_the_reference(subset):
    table, reward = features(ARMS), np.random.default_rng(1).uniform(size=ARMS)
    search = bandit(table, subset)
    expected = reference_arms(table, reward, search, subset or ARMS, 14)
    assert [pull(search, reward)[0] for _ in range(14)] == expected


def test_stored_picks_restore_it():
    table, reward = features(ARMS), np.random.default_rng(1).uniform(size=ARMS)
    search, restored = bandit(table, 8), bandit(table, 8)
    for _ in range(9):
        arm, pick = pull(search, reward)
        restored.restore(arm, pick)
        restored.observe(arm, float(reward[arm]))
    torch.testing.assert_close(flat(restored.widths.precision), flat(search.widths.precision))
    assert [pull(restored, reward)[0] for _ in range(3)] == [
        pull(search, reward)[0] for _ in range(3)
    ]


def test_an_outer_iteration_starts_from_the_best():
    table, reward = features(ARMS), np.random.default_rng(1).uniform(size=ARMS)
    search = bandit(table, None)
    for _ in range(6):
        pull(search, reward)
    scores = {arm: float(reward[arm]) for arm, _ in search.history}
    search.next_outer(scores, 3)
    assert sorted(score for _, score in search.history) == sorted(scores.values())[-3:]
    assert torch.equal(
        flat(search.widths.precision), torch.full_like(flat(search.widths.precision), RIDGE)
    )
    pull(search, reward)


def test_one_at_a_time_and_finite_scores_only():
    search = bandit(features(ARMS), 8)
    arm = search.select()
    search.dispatch(arm)
    with pytest.raises(ValueError, match="in flight"):
        search.select()
    with pytest.raises(ValueError, match=f"arm {arm}: score is nan"):
        search.observe(arm, float("nan"))
    search.withdraw(arm)
    assert arm not in search.available
