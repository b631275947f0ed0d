"""The table of a study: means over seeds with Student's intervals, each seed beside them."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from rnr_dist.report.study import StudyRow, mean_and_interval, study_table, write_study
from tests.unit.report_fakes import BEHAVIOUR, RUDE, behaviour_results, behaviour_row


@pytest.mark.parametrize(
    "values", [[0.1, 0.3], [-0.9, -0.8, -0.85], [0.5, 0.5, 0.5, 0.7], list(np.linspace(0, 1, 30))]
)
def test_the_interval_is_students(values):
    mean, (low, high) = mean_and_interval(values)
    known = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert mean == pytest.approx(np.mean(values))
    assert (low, high) == pytest.approx((known.low, known.high))


def test_the_interval_of_three_by_hand():
    """Mean 2, standard error 1/sqrt(3), t of two degrees of freedom 4.3027."""
    mean, (low, high) = mean_and_interval([1, 2, 3])
    assert (mean, low, high) == pytest.approx((2, 2 - 2.4841, 2 + 2.4841), abs=1e-4)


def test_no_interval_of_one_seed_and_no_mean_of_none():
    assert mean_and_interval([0.4]) == (0.4, None)
    assert mean_and_interval([0.4, math.nan]) == (0.4, None)
    assert math.isnan(mean_and_interval([math.nan])[0])


def seeds(rude, variant="", name="dpo", dead=None):
    """A row a seed: this share in place of the reference's 0.16."""
    rows = []
    for seed, share in enumerate(rude):
        notes = {} if dead is None else {"candidates": 4, "dead": dead}
        row = behaviour_row(name, "method", share, 1.1, notes)
        found = behaviour_results()
        rows.append(StudyRow(variant, seed, row, replace(found, rows=(*found.rows, row))))
    return rows


def test_changes_are_those_against_each_runs_own_reference():
    [entry] = study_table(seeds([0.08, 0.04], dead=1))
    assert (entry["name"], entry["kind"]) == ("dpo", "method")
    found = entry["measures"][RUDE.name]
    base = behaviour_results().scores["base"][RUDE.name].value
    changes = [row.results.scores["dpo"][RUDE.name].value / base - 1 for row in seeds([0.08, 0.04])]
    assert list(found["seeds"].values()) == pytest.approx(changes)
    assert found["mean"] == pytest.approx(np.mean(changes))
    assert found["ci95"] == pytest.approx(mean_and_interval(changes)[1])
    assert (entry["candidates"], entry["dead"]) == ([4, 4], [1, 1])
    # The target and the utilities; guards and the rest stand in the runs' own tables.
    assert [*entry["measures"]] == [RUDE.name, "perplexity/inside", "perplexity/outside"]


def test_variants_are_told_apart_and_references_left_out():
    results = behaviour_results()
    rows = [
        StudyRow(variant, seed, row, results)
        for variant in ("plain", "more")
        for seed in (0, 1)
        for row in results.rows
    ]
    names = [entry["name"] for entry in study_table(rows)]
    assert names == [f"{v}: {r}" for v in ("plain", "more") for r in ("retain-only", "-f0", "+r1")]


def test_a_measure_that_a_row_has_not_is_no_number():
    """Another model's row, say, of another vocabulary."""
    [one] = seeds([0.08])
    row = replace(one.row, values={RUDE.name: one.row.values[RUDE.name]})
    rows = (*behaviour_results().rows, row)
    lacking = replace(one, row=row, results=replace(one.results, rows=rows))
    [entry] = study_table([lacking])
    assert math.isnan(entry["measures"]["perplexity/inside"]["mean"])
    assert not math.isnan(entry["measures"][RUDE.name]["mean"])


def test_the_table_is_printed_whole_and_written_as_strict_json(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("rnr_dist.report.study.terminal", lambda: Console(width=110))
    rows = [*seeds([0.08, 0.04], dead=1), *seeds([0.16], name="kl")]
    note = "the split final was read again once under another config (--reread)"
    path = write_study(tmp_path / "study.json", "methods", rows, [note])
    printed = capsys.readouterr().out
    assert "Study methods: change against the reference" in printed
    assert f"Note: {note}" in " ".join(printed.split())
    for told in ("dpo", "kl", "−50.0%", "−75.0%", "mean −62.5%", "1 of 4", "dead candidates"):
        assert told in printed, printed
    for measure in BEHAVIOUR[:1]:
        assert measure.title in printed

    def no_constant(name):
        raise AssertionError(f"{name} is no JSON")

    found = json.loads(path.read_text(), parse_constant=no_constant)
    assert found["notes"] == [note]
    assert found["rows"][1]["dead"] == [None]
