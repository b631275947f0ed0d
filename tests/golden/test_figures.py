"""The golden figures are what they were, and a comparison that would let another value pass fails.

Text, truth values and whole numbers are equal; other numbers within the figure's tolerance.
"""

import copy
import math

import pytest
import torch

from tests.golden.figures import FIGURES, computed, expected

pytestmark = pytest.mark.usefixtures("one_thread")

# Relative; trained in fp32, else fp32 matrices, else float64.
TOLERANCES = {"epochs": 3e-5, "composition": 1e-5}
TOLERANCE = 1e-9


def differences(found, wanted, tolerance, place=""):
    """Places at which two JSON values differ, each with both values."""
    if isinstance(wanted, dict) and isinstance(found, dict) and found.keys() == wanted.keys():
        pairs = [(found[key], wanted[key], f"{place}/{key}") for key in wanted]
    elif isinstance(wanted, list) and isinstance(found, list) and len(found) == len(wanted):
        pairs = [
            (*both, f"{place}/{at}") for at, both in enumerate(zip(found, wanted, strict=True))
        ]
    elif type(found) is type(wanted) is float:
        # Next to nothing is as good as nothing: sums of numbers near 1 that cancel.
        near = math.isclose(found, wanted, rel_tol=tolerance, abs_tol=tolerance / 100)
        return [] if near else [f"{place}: found {found}, expected {wanted}"]
    else:
        same = type(found) is type(wanted) and found == wanted
        return [] if same else [f"{place}: found {found!r}, expected {wanted!r}"]
    return [line for pair in pairs for line in differences(*pair[:2], tolerance, pair[2])]


@pytest.mark.parametrize("name", FIGURES)
def test_the_figure_is_what_it_was(name):
    assert torch.get_num_threads() == 1
    found = differences(computed(name), expected(name), TOLERANCES.get(name, TOLERANCE))
    assert not found, "\n".join([f"{len(found)} values moved:", *found[:20]])


def leaves(value):
    """(holder, key) of every value that is neither an object nor an array."""
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in inner:
        if isinstance(item, (dict, list)):
            yield from leaves(item)
        else:
            yield value, key


def moved(value, tolerance):
    """The value, changed by little."""
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value + 2 * max(abs(value), 0.01) * tolerance
    return f"{value} "


@pytest.mark.parametrize("name", FIGURES)
def test_no_value_can_move_unseen(name):
    wanted, tolerance = expected(name), TOLERANCES.get(name, TOLERANCE)
    changed = copy.deepcopy(wanted)
    places = list(leaves(changed))
    for holder, key in places:
        holder[key] = moved(holder[key], tolerance)
    assert len(differences(changed, wanted, tolerance)) == len(places) > 20


def test_what_is_left_out_or_added_is_seen():
    wanted = {"a": [1.0, 2.0], "b": {"c": None}}
    assert differences(wanted, wanted, 0) == []
    for found in (
        {"a": [1.0, 2.0]},
        {**wanted, "a": [1.0]},
        {**wanted, "d": 1},
        {**wanted, "b": 1},
    ):
        assert len(differences(found, wanted, 1e-4)) == 1
    # Of another type, and no number.
    assert differences({"a": 1}, {"a": True}, 1e-4) and differences([None], [0.0], 1e-4)
