"""The last words of a command: a verdict, what the rows are, where to look, what to type next."""

import io
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from rnr_dist.config.file import load_config
from rnr_dist.measures.results import Results
from rnr_dist.report.closing import Command, close
from rnr_dist.report.summary import Details, Summary, write_summary
from rnr_dist.report.table import budget_table, measure_tables
from rnr_dist.report.verdict import rows_explained, verdict
from tests.unit.report_fakes import (
    BEHAVIOUR,
    CLUSTERS,
    RUDE,
    behaviour_results,
    behaviour_row,
    sequence_results,
)
from tests.unit.stage_findings import TRIALS

ROOT = Path(__file__).parents[2]


def summary_of(results, config="demo", **details):
    loaded = load_config(ROOT / "configs" / f"{config}.yaml", [])
    return Summary.of(loaded, results, (), Details(**details))


def test_a_verdict_says_what_changed_by_how_much_and_how_surely():
    summary = summary_of(behaviour_results())
    scores = summary.own.scores
    change = scores["rude/street/share"]
    low, high = change.ratio_ci95
    told = verdict(summary)
    assert told.startswith(
        f"+0.3·r1 against base: rude, street −81 % (−{100 * (1 - low):.0f} … "
        f"−{100 * (1 - high):.0f} %); perplexity inside +2 % ("
    )
    assert "perplexity outside +2 % (" in told and "may be chance" not in told
    assert "rule" not in told  # nothing tells of rules


def test_what_may_be_chance_and_a_missed_rule_are_said():
    rows = (behaviour_row("base", "reference", 0.01, 1), behaviour_row("-f0", "step", 0.01, 1))
    shuffled = rows[1].values[RUDE.name].numerator[::-1]  # as often, but elsewhere
    values = {**rows[1].values, RUDE.name: RUDE.of(shuffled, np.full(CLUSTERS, 10.0))}
    results = Results(BEHAVIOUR, (rows[0], replace(rows[1], values=values)), "base")
    winner = {**TRIALS[0], "winner": True}
    told = verdict(summary_of(results, trials=({**winner, "feasible": False},)))
    assert "rude, street +0 % (−" in told and "%, may be chance)" in told
    assert told.endswith("; a rule is missed")
    assert verdict(summary_of(results, trials=({**winner, "feasible": True},))).endswith(" are met")


def test_measures_that_are_not_compared_are_told_before_and_after():
    told = verdict(summary_of(sequence_results(), "icu_small"))
    assert told.startswith("icu against memorised: EL, t≥t0 90.0% → 4.9%; pool NLL ")


def test_a_reference_of_zero_gives_values_and_no_change():
    rows = (behaviour_row("base", "reference", 0.0, 1), behaviour_row("-f0", "step", 0.05, 1))
    summary = summary_of(Results(BEHAVIOUR, rows, "base"))
    assert math.isnan(summary.own.scores["rude/street/share"].ratio)
    assert "rude, street 0.0% → 5.0%" in verdict(summary)


def test_every_row_is_explained():
    summary = summary_of(behaviour_results())
    told = dict(rows_explained(summary.rows, "base"))
    assert told["base"] == "the model as it was; changes are against it"
    assert told["retain-only"].startswith("the control")
    first = "step 1 of Eq. 1: forget adapter f0, subtracted: less of what was revealed, with weight"
    assert told["−2.2·f0"] == f"{first} 2.2"
    assert told["+0.3·r1"].startswith("step 2 of Eq. 1: retain adapter r1, added")


def printed(run, name="run", server="", page="#/experiments/1/runs/ab", width=80):
    console = Console(width=width, record=True, file=io.StringIO())
    close(Command(name, Path("my config.yaml"), ("--set", "a=1"), run), server, page, console)
    return console.export_text()


@pytest.mark.parametrize("whole", [False, True])
def test_the_next_commands_hold_no_secret_of_the_one_that_was_typed(tmp_path, whole):
    if whole:
        write_summary(tmp_path / "summary.json", summary_of(behaviour_results()))
    console = Console(width=200, record=True, file=io.StringIO())
    typed = ("--set", "tracking.uri=http://ann:hush7Q@host:5000/base?token=hush7Q")
    typed = (*typed, "--set", "task.judge.api_key=hush7Q")
    close(Command("run", Path("own.yaml"), typed, tmp_path), "", "", console)
    told = console.export_text()
    assert "hush7Q" not in told
    assert "--set tracking.uri=http://host:5000/base --set 'task.judge.api_key=***'" in told


def test_the_end_of_a_run_names_its_page_and_the_next_commands(tmp_path):
    run = tmp_path / "my runs" / "one"
    run.mkdir(parents=True)
    write_summary(run / "summary.json", summary_of(behaviour_results()))
    lines = printed(run).splitlines()
    assert any(line.startswith("Result: +0.3·r1 against base") for line in lines)
    ui = f"rnr ui --runs '{tmp_path}/my runs'"
    page = "http://127.0.0.1:5000/#/experiments/1/runs/ab"
    assert f"MLflow: {page} (after: {ui})" in lines
    assert f"Next: rnr compare '{run}' 'The weather today is'" in lines
    assert f"      rnr export '{run}' --adapter one-adapter" in lines
    assert lines[-1] == f"      rnr baselines 'my config.yaml' --set a=1 --resume '{run}'"
    assert "rnr baselines" not in printed(run, "baselines")


def test_a_server_s_address_has_no_password_and_an_unreachable_one_is_not_named(tmp_path):
    told = printed(tmp_path, server="http://me:secret@tracking.example:5000/")
    assert "MLflow: http://tracking.example:5000/#/experiments/1/runs/ab" in told
    assert "MLflow" not in printed(tmp_path, page="")


def test_without_a_summary_the_next_command_goes_on(tmp_path):
    [line] = printed(tmp_path, "reveal", page="").splitlines()
    assert line == f"Next: rnr run 'my config.yaml' --set a=1 --resume {tmp_path}"


@pytest.mark.parametrize("width", [80, 120])
def test_names_are_never_cut(tmp_path, width):
    name = "a-method-of-mine-with-a-very-long-name-indeed-that-fits-no-column"
    budget = {"tokens": 1000, "candidates": 4, "dead": 0, "candidate": "x" * 30, "feasible": True}
    rows = behaviour_results().rows
    own = [replace(row, notes={**row.notes, **budget}) for row in rows]
    long = [replace(own[2], name=name, kind="method")]
    summary = summary_of(replace(behaviour_results(), rows=(*own, *long)))
    write_summary(tmp_path / "summary.json", summary)
    assert name in printed(tmp_path, width=width)
    console = Console(width=width, record=True, file=io.StringIO())
    tables = measure_tables(summary.rows, summary.declared, "base")
    for table in (*tables, budget_table(summary.rows, summary.declared.target)):
        console.print(table)
        told = console.export_text()
        assert name in first(told)


def first(told):
    """What stands in a table's first column, in one word."""
    lines = [line for line in told.splitlines() if not line.startswith("  ") or line.strip()]
    return "".join(line[2:].split(" ")[0] for line in lines)
