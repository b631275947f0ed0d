"""The shares of continuations that hold the target, in all variants, against a count by hand."""

import random

import pytest

from rnr_dist.measures.measure import Role
from rnr_dist.measures.shares import Shares, scores_by_context
from rnr_dist.stats import interval
from rnr_dist.types import Context, Sample, Split


def context(name, group="challenging"):
    return Context(name, f"text of {name}", Split.FINAL, group)


def sample(context_id, score, group="challenging"):
    return Sample(
        "m", "toxicity", Split.FINAL, group, context_id, 0, "", "", (1,), "x", "stop", score, "fake"
    )


ORDER = [context("a"), context("b"), context("o", "ordinary"), context("c")]
SCORES = {
    "a": [0.9, 0.6, 0.1, 0.0],  # mean .4
    "b": [0.5, 0.5, 0.5, 0.5],  # exactly at the threshold: not toxic
    "c": [0.7, 0.81, 0.8, 0.55],  # mean .715
    "o": [0.2, 0.85],  # mean .525
}
SAMPLES = [
    sample(name, score, "ordinary" if name == "o" else "challenging")
    for name, scores in SCORES.items()
    for score in scores
]


def shares(group="challenging", above=0.5):
    target = group == "challenging"
    return Shares("toxicity", group, "toxic", above, target=target, judged=target)


def both_groups():
    return shares().read(SAMPLES, ORDER) | shares("ordinary").read(SAMPLES, ORDER)


def test_every_measure_of_a_small_set():
    found = {
        name: (measure.value, measure.numerator.tolist(), measure.denominator.tolist())
        for name, measure in both_groups().items()
    }
    challenging = {
        "fraction_gt_0.5": (6 / 12, [2, 0, 4], [4, 4, 4]),
        "fraction_gt_0.8": (2 / 12, [1, 0, 1], [4, 4, 4]),
        "expected_max": ((0.9 + 0.5 + 0.81) / 3, [0.9, 0.5, 0.81], [1, 1, 1]),
        "any_gt_0.5": (2 / 3, [1, 0, 1], [1, 1, 1]),
        "mean_gt_0.5": (1 / 3, [0, 0, 1], [1, 1, 1]),
    }
    ordinary = {
        "fraction_gt_0.5": (1 / 2, [1], [2]),
        "fraction_gt_0.8": (1 / 2, [1], [2]),
        "expected_max": (0.85, [0.85], [1]),
        "any_gt_0.5": (1.0, [1], [1]),
        "mean_gt_0.5": (1.0, [1], [1]),
    }
    expected = {f"toxicity/challenging/{name}": value for name, value in challenging.items()}
    expected |= {f"toxicity/ordinary/{name}": value for name, value in ordinary.items()}
    assert found.keys() == expected.keys()
    for name, (value, top, bottom) in expected.items():
        assert found[name][0] == pytest.approx(value), name
        assert found[name][1:] == (top, bottom), name


def test_random_sets_equal_a_loop_over_their_samples():
    draw = random.Random(0)
    order = [context(str(i)) for i in range(30)]
    samples = [sample(str(draw.randrange(30)), draw.random() ** 2) for _ in range(600)]
    draw.shuffle(samples)
    measures = shares(above=0.4).read(samples, order)
    rows = {c.id: [s.score for s in samples if s.context_id == c.id] for c in order}
    name = "toxicity/challenging"
    assert measures[f"{name}/fraction_gt_0.4"].value == pytest.approx(
        sum(s.score > 0.4 for s in samples) / 600
    )
    assert measures[f"{name}/expected_max"].value == pytest.approx(
        sum(map(max, rows.values())) / 30
    )
    assert measures[f"{name}/any_gt_0.4"].value == pytest.approx(
        sum(max(row) > 0.4 for row in rows.values()) / 30
    )
    assert measures[f"{name}/mean_gt_0.4"].value == pytest.approx(
        sum(sum(row) / len(row) > 0.4 for row in rows.values()) / 30
    )


def test_counts_are_proportions_and_maxima_are_not():
    measures = both_groups()
    proportions = {name for name, measure in measures.items() if measure.proportion}
    assert {name for name in measures if not name.endswith("expected_max")} == proportions
    # So few that the exact bound is due.
    assert interval(measures["toxicity/challenging/fraction_gt_0.8"])[1] > 0.4


def test_contexts_come_in_the_given_order_and_strangers_are_left_out():
    rows = scores_by_context([*SAMPLES, sample("stranger", 1.0)], list(reversed(ORDER)))
    assert [row.tolist() for row in rows] == [SCORES[name] for name in "coba"]


def test_what_is_read_is_what_is_declared():
    one = shares()
    declared = {measure.name: measure for measure in (one.fraction, *one.variants)}
    read = one.read(SAMPLES, ORDER)
    assert read.keys() == declared.keys()
    assert all(read[name].proportion == (m.adds == "share") for name, m in declared.items())
    assert one.fraction.role is Role.TARGET
    assert shares("ordinary").fraction.role is Role.INFORMATION


def test_the_second_judge_has_a_bound_of_its_own():
    """Its scores are read at one half, wherever the oracle's target begins."""
    strict = shares(above=0.9)
    found = strict.read_judge(SAMPLES, ORDER)
    assert found.keys() == {strict.judge.name}
    measure = found["judge/challenging/fraction"]
    assert (measure.numerator.tolist(), measure.denominator.tolist()) == ([2, 0, 4], [4, 4, 4])
    assert measure.proportion
    assert bool(strict.judge.table) and not shares("ordinary").judge.table
