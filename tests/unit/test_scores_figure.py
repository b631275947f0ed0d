"""The picture of scores by step: drawn where a task has scores, with the values that were read."""

import numpy as np
from matplotlib.image import imread

from rnr_dist.measures.entities import EntityMeasures
from rnr_dist.measures.measure import Measures
from rnr_dist.measures.results import Results, Row
from rnr_dist.report import scores_figure as drawing
from rnr_dist.report.scores_figure import scored, scores_figure
from rnr_dist.report.summary import summary_rows
from rnr_dist.types import Split
from tests.unit.report_fakes import behaviour_results

ENTITIES = EntityMeasures("person", ("place", "day"))
TERMS = [{"role": "forget", "coefficient": -5.0, "adapter": "a"}]


def row(name, kind, person, kept, **notes):
    measures = [ENTITIES.f1["person"], ENTITIES.kept, ENTITIES.f1["place"], ENTITIES.f1["day"]]
    values = {
        one.name: one.of(np.full(9, value), np.ones(9))
        for one, value in zip(measures, (person, kept, kept + 0.1, kept - 0.1), strict=True)
    }
    return Row(name, kind, name, Split.DEV, values, notes)


def results():
    rows = (
        row("base", "other", 0.1, 0.2),
        row("taught", "reference", 0.9, 0.8),
        row("untaught", "control", 0.3, 0.8),
        row("-f0", "step", 0.2, 0.7, terms=TERMS),
    )
    return Results(ENTITIES.declared, rows, "taught")


def test_each_score_is_a_line_over_the_steps(tmp_path, monkeypatch):
    held, save = [], drawing.save
    monkeypatch.setattr(drawing, "save", lambda one, path: (held.append(one), save(one, path)))
    found = results()
    scores_figure(summary_rows(found), found.declared, tmp_path / "scores.png")
    assert imread(tmp_path / "scores.png").std() > 0.01
    [axes] = held[0].axes
    lines = {line.get_label(): line.get_ydata() for line in axes.lines}
    assert [*lines] == ["person F1", "retained F1", "place F1", "day F1"]
    np.testing.assert_allclose(lines["person F1"], [0.9, 0.2])
    np.testing.assert_allclose(lines["place F1"], [0.9, 0.8])
    assert [label.get_text() for label in axes.get_xticklabels()] == ["taught", "−5·f0"]


def test_shares_and_a_lone_score_have_no_such_picture():
    assert scored(behaviour_results().declared) == ()
    assert scored(Measures((ENTITIES.f1["person"], ENTITIES.kept))) == ()
