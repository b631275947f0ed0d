"""The bandit's widths and training in closed form against brute force."""

import numpy as np
import pytest
import torch

from rnr_dist.reveal.confidence import WIDTHS
from rnr_dist.reveal.features import FeatureTable, Standardised
from rnr_dist.reveal.network import Gradients, gradients, predict
from tests.unit.brute_force import autograd_gradient, features, network, output

RIDGE, EXPLORATION = 0.1, 0.7
GAIN = 6**-0.5


def picks_of_a_changing_network(x: torch.Tensor) -> tuple[Gradients, torch.Tensor]:
    """Five picks, each with the network of its time: in factors, and brute force (5, |theta|)."""
    networks = [network(x.shape[1], 6, seed) for seed in range(5)]
    factors = [gradients(x[i : i + 1], theta, GAIN) for i, theta in enumerate(networks)]
    dense = [autograd_gradient(x[i], theta, GAIN) for i, theta in enumerate(networks)]
    return Gradients(*map(torch.cat, zip(*factors, strict=True))), torch.stack(dense)


def explicit_widths(kind: str, x: torch.Tensor, theta, dense: torch.Tensor) -> torch.Tensor:
    g = torch.stack([autograd_gradient(row, theta, GAIN) for row in x])
    if kind == "diagonal":
        return RIDGE * EXPLORATION * (g.square() / (RIDGE + dense.square().sum(0))).sum(1)
    z = RIDGE * torch.eye(dense.shape[1], dtype=torch.float64) + dense.T @ dense
    return RIDGE * EXPLORATION * ((g @ torch.linalg.inv(z)) * g).sum(1)


def test_predictions_are_the_networks():
    x, theta = torch.as_tensor(features()), network(4, 6, seed=9)
    outputs = torch.stack([output(row, theta, GAIN) for row in x])
    found = predict(gradients(x, theta, GAIN).activations, theta)
    torch.testing.assert_close(found, outputs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", WIDTHS)
def test_widths_equal_per_sample_autograd(kind):
    x, theta = torch.as_tensor(features()), network(4, 6, seed=9)
    picked, dense = picks_of_a_changing_network(x)
    widths = WIDTHS[kind](RIDGE, EXPLORATION)
    widths.reset(picked)
    expected = explicit_widths(kind, x, theta, dense)
    torch.testing.assert_close(widths.of(gradients(x, theta, GAIN)), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", WIDTHS)
def test_adding_picks_one_by_one_equals_all_at_once(kind):
    x, theta = torch.as_tensor(features()), network(4, 6, seed=9)
    picked, _ = picks_of_a_changing_network(x)
    at_once, one_by_one = WIDTHS[kind](RIDGE, EXPLORATION), WIDTHS[kind](RIDGE, EXPLORATION)
    at_once.reset(picked)
    at = gradients(x, theta, GAIN)
    one_by_one.reset(gradients(x[:0], theta, GAIN))
    before = one_by_one.of(at)
    for i in range(5):
        one_by_one.add(Gradients(*(factor[i : i + 1] for factor in picked)))
        after = one_by_one.of(at)
        assert (after <= before + 1e-12).all()  # so that a stale width is a ceiling
        before = after
    torch.testing.assert_close(before, at_once.of(at), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", WIDTHS)
def test_ceilings_are_above_widths(kind):
    x, theta = torch.as_tensor(features()), network(4, 6, seed=9)
    widths = WIDTHS[kind](RIDGE, EXPLORATION)
    widths.reset(picks_of_a_changing_network(x)[0])
    at = gradients(x, theta, GAIN)
    ceilings = widths.ceiling(x.square().sum(1), at.slopes, at.activations)
    assert (ceilings >= widths.of(at)).all()
    assert (ceilings < 20 * widths.of(at)).all()


@pytest.mark.parametrize("kind", WIDTHS)
def test_without_picks_a_width_is_nu_times_the_squared_gradient(kind):
    x, theta = torch.as_tensor(features()), network(4, 6, seed=9)
    widths = WIDTHS[kind](RIDGE, EXPLORATION)
    widths.reset(gradients(x[:0], theta, GAIN))
    expected = torch.stack([autograd_gradient(row, theta, GAIN).square().sum() for row in x])
    torch.testing.assert_close(widths.of(gradients(x, theta, GAIN)), EXPLORATION * expected)


def test_standardised_products_fold_the_standardisation_into_the_weights(monkeypatch):
    monkeypatch.setattr("rnr_dist.reveal.features.BLOCK_BYTES", 8 * 4 * 7)  # blocks of 7 arms
    raw = (features() * [1, 50, 1e-3, 2] + [0, 400, 1, -5]).astype(np.float32)
    table = Standardised(FeatureTable(raw))
    wide = raw.astype(np.float64)
    expected = torch.from_numpy((wide - wide.mean(0)) / wide.std(0) / 2)
    torch.testing.assert_close(table.rows(list(range(30))), expected, rtol=1e-9, atol=1e-9)
    weights = network(4, 6, seed=1).w1
    products = torch.cat([block for _, block in table.products(weights)])
    torch.testing.assert_close(products, expected @ weights.T, rtol=1e-9, atol=1e-9)
    near = table.squared_distances(expected[3])
    torch.testing.assert_close(near, (expected - expected[3]).square().sum(1), rtol=0, atol=1e-9)
