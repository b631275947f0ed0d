"""The arm table: the same bits everywhere, the reference's scale or the model's."""

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest

from rnr_dist.reveal.arms import ArmTable

DIGEST = """
import hashlib
from rnr_dist.reveal.arms import ArmTable
table = ArmTable(200, 10, 5, 64, seed=3, scale_std=0.02)
print(hashlib.sha256(table.coordinates.tobytes() + table.soft_prompt(150).tobytes()).hexdigest())
"""


def test_bit_equal_in_another_process():
    table = ArmTable(200, 10, 5, 64, seed=3, scale_std=0.02)
    here = hashlib.sha256(table.coordinates.tobytes() + table.soft_prompt(150).tobytes())
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    there = subprocess.run(
        [sys.executable, "-c", DIGEST], env=environment, capture_output=True, text=True, check=True
    )
    assert there.stdout.strip() == here.hexdigest()


def test_seeds_and_arms_differ():
    table, other = (ArmTable(8, 3, 2, 4, seed, None) for seed in (0, 1))
    assert (table.coordinates != other.coordinates).all()
    assert (table.soft_prompt(0) != other.soft_prompt(0)).all()
    assert (table.soft_prompt(0) != table.soft_prompt(1)).all()


def test_coordinates_fill_the_cube_evenly():
    table = ArmTable(256, 10, 5, 8, seed=0, scale_std=None)
    assert len(table) == 256
    assert table.coordinates.shape == (256, 10)
    assert table.coordinates.dtype == np.float64
    # A Sobol sequence of 2^8 points puts exactly one in each of 256 slices of each axis.
    slices = np.sort(np.floor(table.coordinates * 256).astype(int), axis=0)
    np.testing.assert_array_equal(slices, np.tile(np.arange(256)[:, None], (1, 10)))


@pytest.mark.parametrize("count", [1, 5, 200])
def test_any_count_takes_the_first_points(count):
    table = ArmTable(count, 4, 2, 3, seed=5, scale_std=None)
    longer = ArmTable(256, 4, 2, 3, seed=5, scale_std=None)
    np.testing.assert_array_equal(table.coordinates, longer.coordinates[:count])


def test_the_reference_scale_is_a_linear_map_with_weights_between_minus_one_and_one():
    table = ArmTable(64, 6, 5, 32, seed=1, scale_std=None)
    prompts = np.stack([table.soft_prompt(arm) for arm in range(64)]).reshape(64, -1)
    assert table.soft_prompt(0).shape == (5, 32)
    assert table.soft_prompt(0).dtype == np.float32
    weights, *_ = np.linalg.lstsq(table.coordinates, prompts, rcond=None)
    np.testing.assert_allclose(table.coordinates @ weights, prompts, atol=1e-5)  # no bias
    assert np.abs(weights).max() <= 1 + 1e-4
    assert weights.mean() == pytest.approx(0, abs=0.05)
    assert weights.std() == pytest.approx(3**-0.5, abs=0.02)


def test_the_reference_scale_at_ten_dimensions():
    table = ArmTable(128, 10, 5, 256, seed=0, scale_std=None)
    entries = np.stack([table.soft_prompt(arm) for arm in range(128)])
    assert entries.std() == pytest.approx(1.05, abs=0.03)


@pytest.mark.parametrize("count", [128, 200])
def test_the_embedding_scale_centres_arms_and_gives_them_the_wanted_std(count):
    table = ArmTable(count, 10, 5, 256, seed=0, scale_std=0.03)
    entries = np.stack([table.soft_prompt(arm) for arm in range(count)]).reshape(count, -1)
    assert entries.std() == pytest.approx(0.03, rel=0.03)
    np.testing.assert_allclose(entries.mean(axis=0), 0, atol=1e-7)
    directions = entries / np.linalg.norm(entries, axis=1, keepdims=True)
    cosines = (directions @ directions.T)[np.triu_indices(count, 1)]
    assert abs(cosines.mean()) < 0.05  # uncentred arms have .75
