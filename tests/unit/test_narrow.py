"""Tables on narrow terminals: every word of the wide one, each whole."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from rnr_dist.measures.measure import Measures
from rnr_dist.report import study
from rnr_dist.report.narrow import WORD
from rnr_dist.report.study import StudyRow
from rnr_dist.report.summary import summary_rows
from rnr_dist.report.table import (
    budget_table,
    instructions_table,
    measure_tables,
    stages_table,
    subspaces_table,
    trials_table,
)
from tests.unit.report_fakes import (
    BEHAVIOUR,
    RUDE,
    behaviour_results,
    behaviour_row,
    sequence_results,
)
from tests.unit.stage_findings import FILLS, TRIALS


def printed(table, width):
    console = Console(width=width, file=io.StringIO(), markup=False, emoji=False, record=True)
    console.print(table)
    return console.export_text()


def in_order(word, text):
    """Whether all letters of a word stand in a text, which may fold it."""
    letters = iter(text)
    return all(letter in letters for letter in word)


def words_of(table):
    """Each word of its headings and cells."""
    parts = [*(column.header for column in table.columns)]
    parts += [cell for column in table.columns for cell in column.cells]
    return {word for part in parts for word in str(part).split()}


def budget():
    """What each method was given, of one with a candidate of many settings."""
    notes = {"tokens": 85080, "candidates": 15, "dead": 5, "feasible": False}
    notes["candidate"] = '{"objective.learn_weight": 0.003} x 0.841'
    rows = (*behaviour_results().rows, behaviour_row("pem_external", "method", 0.1, 1.04, notes))
    return budget_table(summary_rows(replace(behaviour_results(), rows=rows)), RUDE)


def of_results(results):
    return measure_tables(summary_rows(results), results.declared, results.reference)


def studied():
    rows = [
        StudyRow("", seed, row, behaviour_results())
        for seed in (0, 1)
        for row in behaviour_results().rows
    ]
    return study._printed("methods", study.study_table(rows))


SHARED = {"one": "f0", "other": "r1", "mean": 0.123, "std": 0.01, "chance": 0.04, "maximum": 0.354}
TABLES = {
    "behaviour": lambda: of_results(behaviour_results())[0],
    "sequences": lambda: of_results(sequence_results())[0],
    "kept": lambda: of_results(sequence_results())[1],
    "trials": lambda: trials_table(TRIALS, Measures(BEHAVIOUR)),
    "instructions": lambda: instructions_table(FILLS),
    "budget": budget,
    "subspaces": lambda: subspaces_table([SHARED]),
    "cost": lambda: stages_table([{"name": "reveal", "wall_seconds": 12, "peak_memory_gib": 3.5}]),
    "study": studied,
}


@pytest.mark.parametrize("width", [40, 60, 72])
@pytest.mark.parametrize("name", TABLES)
def test_no_word_is_lost_or_broken(name, width):
    table = TABLES[name]()
    text = printed(table, width)
    assert max(map(len, text.splitlines())) <= width
    words = words_of(table) - ({"more"} if name == "budget" else set())  # of which no row has any
    assert {word for word in words if len(word) <= WORD} <= set(text.split())
    assert all(in_order(word, text) for word in words)
    assert set(str(table.title).split()) <= set(text.split())
