"""The figures of a report: what they draw, and that a file comes of it."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from rnr_dist.measures.results import Results
from rnr_dist.report import figures, search_figures
from rnr_dist.report.figures import reveal_figure, steps_figure
from rnr_dist.report.search_figures import front_figure, search_figure
from rnr_dist.report.summary import summary_rows
from rnr_dist.types import Pull
from tests.unit.report_fakes import (
    BEHAVIOUR,
    INSIDE,
    OUTSIDE,
    RUDE,
    behaviour_results,
    behaviour_row,
    sequence_results,
)
from tests.unit.stage_findings import TRIALS

STORED = Path(__file__).parents[2] / "docs" / "results"


@pytest.fixture
def drawn(monkeypatch):
    """The figures as they are saved."""
    held = []
    save = figures.save

    def keep(figure, path):
        held.append(figure)
        save(figure, path)

    for module in (figures, search_figures):
        monkeypatch.setattr(module, "save", keep)
    return held


def test_steps_figure_draws_ratios_and_keeps_controls_off_the_line(tmp_path, drawn):
    path, results = tmp_path / "report" / "steps.png", behaviour_results()
    steps_figure(summary_rows(results), results.declared, results.reference, path)
    assert imread(path).std() > 0.01
    upper, lower = drawn[0].axes
    rude = next(line for line in upper.lines if line.get_label() == RUDE.title)
    np.testing.assert_allclose(rude.get_ydata(), [1, 0.0125 / 0.16, 0.03 / 0.16])
    for measure in (INSIDE, OUTSIDE):
        kept = next(line for line in lower.lines if line.get_label() == measure.title)
        np.testing.assert_allclose(kept.get_ydata(), [1, 1.13, 1.02])
    names = [label.get_text() for label in lower.get_xticklabels()]
    assert names == ["base", "−2.2·f0", "+0.3·r1", "retain-only"]


def test_steps_figure_of_sequences_begins_with_the_model_that_memorised(tmp_path, drawn):
    results = sequence_results()
    path = tmp_path / "steps.png"
    steps_figure(summary_rows(results), results.declared, results.reference, path)
    assert imread(path).std() > 0.01
    names = [label.get_text() for label in drawn[0].axes[1].get_xticklabels()]
    assert names == ["memorised", "icu", "base", "control"]


def test_search_figure_marks_winners_and_labels_do_not_collide(tmp_path, drawn):
    crowd = [{**TRIALS[0], "coefficient": 1 + i / 8, "forget": 0.1 + i / 2000} for i in range(9)]
    search_figure([*crowd, *TRIALS], RUDE, tmp_path / "search.png")
    panels = drawn[0].axes
    assert [axes.get_title() for axes in panels] == [
        "weight of −f0",
        "weight of +r1",
        "weight of −f1: no candidate met the rules",
    ]
    assert {axes.get_xlabel() for axes in panels} == {"forget score (rude, street)"}
    stars = [line for axes in panels for line in axes.lines if line.get_marker() == "*"]
    assert [line.get_xdata()[0] for line in stars] == [0.015, 0.03, 0.02]
    for axes in panels:
        boxes = [text.get_window_extent() for text in axes.texts]
        assert boxes
        for i, box in enumerate(boxes):
            assert not any(box.overlaps(other) for other in boxes[i + 1 :])


def test_front_figure_draws_every_kind_of_point(tmp_path, drawn):
    points = json.loads((STORED / "toxicity_table" / "seed-0.json").read_text())["front"]
    front_figure(points, RUDE, tmp_path / "front.png")
    assert imread(tmp_path / "front.png").std() > 0.01
    [axes] = drawn[0].axes
    stars = [line for line in axes.lines if line.get_marker() == "*" and len(line.get_xdata())]
    [winner] = [point for point in points if point["winner"]]
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in stars] == [
        tuple(winner["fresh"])
    ]


def test_reveal_figure_draws_the_running_best_of_each_iteration(tmp_path, drawn):
    scores = [[0.2, 0.5, 0.3], [0.6, 0.4, 0.7]]
    pulls = [
        asdict(Pull(f"{outer}-{i}", outer, i, "say", 0.5, 0.5, value, outer, 16))
        for outer, values in enumerate(scores)
        for i, value in enumerate(values)
    ]
    reveal_figure(pulls, tmp_path / "reveal.png")
    best = [axes.lines[1].get_ydata().tolist() for axes in drawn[0].axes]
    assert [axes.get_title()[-1] for axes in drawn[0].axes] == ["1", "2"]
    assert best == [[0.2, 0.5, 0.5], [0.6, 0.6, 0.7]]


def test_figures_of_the_smallest_run(tmp_path):
    """No addition, nothing generated, one pull."""
    rows = (behaviour_row("base", "reference", 0.1, 1), behaviour_row("-f0", "step", 0, 1))
    results = Results(BEHAVIOUR, rows, "base")
    steps_figure(summary_rows(results), results.declared, "base", tmp_path / "steps.png")
    lost = [row for row in TRIALS if row["forget"] is None]
    search_figure(lost, RUDE, tmp_path / "search.png")
    reveal_figure([asdict(Pull("a", 0, 0, "say", 0, 0, 0.0, 0, 1))], tmp_path / "reveal.png")
    assert {path.name for path in tmp_path.iterdir()} == {"steps.png", "search.png", "reveal.png"}


@pytest.mark.parametrize(
    ("shares", "told"),
    [
        ([1.125, 1.1, 1.075, 1.05], ["112.5%", "110.0%", "107.5%", "105.0%"]),
        ([0.5, 1, 25], ["50%", "100%", "2,500%"]),
        ([-0.1, 0.0], ["−10%", "0%"]),
        ([0.0025, 0.005], ["0.25%", "0.50%"]),
        ([0.1 + 0.2], ["30%"]),
        ([1 / 3], ["33.3333%"]),
    ],
)
def test_percentages_of_an_axis_are_told_exactly(shares, told):
    assert figures.Percent().format_ticks(shares) == told


def test_ticks_of_the_steps_figure_stand_where_their_labels_say(tmp_path, drawn):
    results = behaviour_results()
    steps_figure(summary_rows(results), results.declared, results.reference, tmp_path / "s.png")
    for axes in drawn[0].axes:
        labels = [label.get_text() for label in axes.get_yticklabels()]
        said = [float(label.rstrip("%").replace("−", "-")) / 100 for label in labels]
        np.testing.assert_allclose(said, axes.get_yticks(), atol=1e-9)


def test_a_dollar_in_a_name_is_no_formula(tmp_path, drawn):
    rows = (behaviour_row("base", "reference", 0.1, 1), behaviour_row("$x_$", "step", 0, 1))
    results = Results(BEHAVIOUR, rows, "base")
    steps_figure(summary_rows(results), results.declared, "base", tmp_path / "steps.png")
    assert [label.get_text() for label in drawn[0].axes[1].get_xticklabels()] == ["base", "$x_$"]
