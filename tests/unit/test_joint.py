"""The joint search and the loop's early end, on models whose readings follow from coefficients."""

import math
from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest

from rnr_dist.config.engines import Engines
from rnr_dist.config.release import Joint, Release
from rnr_dist.generate.requests import ReadLikelihood
from rnr_dist.release.joint import AS_IT_WAS, Point, pareto, scaled, search_jointly
from rnr_dist.release.loop import release
from rnr_dist.report.search_figures import front_figure
from rnr_dist.types import Split
from tests.unit.fakes import (
    FORGET,
    MODEL,
    RETAIN,
    SHARES,
    Composed,
    Direct,
    FakeBench,
    FakeScorer,
    FakeTask,
    bad_words,
    contexts,
)

EQ1 = MODEL.plus(-1.0, FORGET).plus(0.5, RETAIN)


def reader(folder, endpoint=None, seed=0, **rules):
    config = SimpleNamespace(release=Release(**rules), engines=Engines(), seed=seed)
    bench = FakeBench(config, endpoint or Composed(), FakeScorer(bad_words))
    return Direct(bench, FakeTask(given=contexts(Split.SEARCH, 6)), folder)


def test_pareto_keeps_what_nothing_beats():
    points = {"a": (0.1, 0.9), "b": (0.2, 0.95), "c": (0.2, 0.9), "d": (0.05, 0.5), "e": (0.3, 0.4)}
    assert pareto(points) == ["d", "a", "b"]


def test_scaling_keeps_order_signs_and_adapters():
    found = scaled(EQ1, [2, 0.5])
    assert [term.coefficient for term in found.terms] == [-2.0, 0.25]
    assert [term.adapter for term in found.terms] == [FORGET, RETAIN]


def test_a_joint_search_improves_on_what_eq_1_ended_with(tmp_path):
    made = reader(tmp_path, joint=Joint(trials=12))
    choice, model, points = search_jointly(EQ1, made.read(MODEL), made)
    before = next(point for point in points if point.candidate == AS_IT_WAS)
    winner = next(point for point in points if point.winner)
    assert len(points) == 13 and choice.verdict.feasible
    assert winner.fresh[0] < before.fresh[0] and winner.utility >= 0.95
    assert [term.coefficient for term in model.terms] == list(winner.coefficients)
    assert all(
        1 / 2.5 - 0.01 <= value / start_value <= 2.51
        for point in points
        for value, start_value in zip(point.coefficients, (-1.0, 0.5), strict=True)
    )


def test_points_of_the_front_are_read_again(tmp_path):
    made = reader(tmp_path, seed=1, reread=1, reread_draws=1, joint=Joint(trials=8))
    _, _, points = search_jointly(EQ1, made.read(MODEL), made)
    first = {p.candidate: (p.forget, p.utility) for p in points if p.forget is not None}
    again = {point.candidate for point in points if point.fresh}
    assert set(pareto(first)) | {AS_IT_WAS} <= again
    assert {point.candidate for point in points if point.front} <= again
    front_figure([asdict(point) for point in points], SHARES.fraction, tmp_path / "front.png")
    assert (tmp_path / "front.png").stat().st_size > 5000


def test_points_that_all_lost_on_utility_stand_in_the_figure(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        "rnr_dist.report.search_figures.save", lambda figure, path: drawn.append(figure)
    )
    lost = [
        Point(name, (-3.0, 1.0), None, kept, False, winner=name == "joint 1")
        for name, kept in (("Eq. 1", 0.85), ("joint 1", 0.88))
    ]
    front_figure([asdict(point) for point in lost], SHARES.fraction, tmp_path / "front.png")
    [axes] = drawn[0].axes
    heights = {float(y) for line in axes.lines for y in line.get_ydata()}
    assert heights == {0.85, 0.88}
    assert axes.get_ylim() == pytest.approx((0.84, 0.89))
    assert {text.get_text() for text in axes.texts} == {"Eq. 1", "1"}


def test_an_interrupted_search_goes_on_with_the_same_points(tmp_path):
    settings = {"seed": 2, "joint": Joint(trials=6)}
    made, other = (reader(tmp_path, **settings) for _ in range(2))
    whole = search_jointly(EQ1, made.read(MODEL), made)
    again = search_jointly(EQ1, other.read(MODEL), other)
    assert again[2] == whole[2]
    assert made.bench.endpoint.asked and not other.bench.endpoint.asked


def test_what_lost_on_utility_is_not_generated_from(tmp_path):
    made = reader(tmp_path, final_keep_share=1.0, joint=Joint(trials=6))
    _, _, points = search_jointly(EQ1, made.read(MODEL), made)
    assert any(point.forget is None for point in points)
    kinds = {kind for digest, kind in made.bench.endpoint.asked if digest != MODEL.digest}
    assert ReadLikelihood in kinds and all(math.isfinite(point.utility) for point in points)


@pytest.mark.parametrize(("regrowth", "names"), [(0.9, ["-f0"]), (0.0, ["-f0", "+r1", "-f1"])])
def test_a_cycle_that_gains_nothing_is_left_out(tmp_path, regrowth, names):
    endpoint = Composed(regrowth)
    ranges = {
        "mu0": {"low": 1.2, "high": 1.2},
        "lam": {"low": 1.0, "high": 1.0},
        "mu": {"low": 0.3, "high": 0.3},
    }
    made = reader(tmp_path, endpoint, iterations=1, **ranges)
    adapters = {"forget": FORGET, "retain": RETAIN}

    def train(name, side, model):
        return replace(adapters[side], digest=name)

    steps = release(MODEL, train, made, tmp_path, lambda step: None)
    assert [step.name for step in steps] == names
    kept = reader(tmp_path / "all", endpoint, iterations=1, stop_early=False, **ranges)
    every = release(MODEL, train, kept, tmp_path / "all", lambda step: None)
    assert [step.name for step in every] == ["-f0", "+r1", "-f1"]
