"""The kept list of bad inputs (benchmarks/fault_parts): each is refused in one sentence."""

import os
import shutil
import traceback
from types import SimpleNamespace

import psutil
import pytest

import benchmarks.fault_parts.rows
import rnr_dist.recipes.pipeline
import rnr_dist.recipes.study
from benchmarks.fault_parts.bad_inputs import BY_HAND, all_cases
from benchmarks.fault_parts.fuzz import fuzzed
from benchmarks.fault_parts.outcome import TRACEBACK, Ended, fault_of
from benchmarks.fault_parts.place import furnish, released_run
from benchmarks.fault_parts.rows import Rows
from rnr_dist.commands.cli import app, guarded

CASES = {case.name: case for case in all_cases()}


@pytest.fixture(scope="module")
def furnished(tmp_path_factory):
    """A place as it should be."""
    place = tmp_path_factory.mktemp("furnished")
    furnish(place)
    return place


@pytest.fixture
def place(furnished, tmp_path, monkeypatch):
    """A copy to be spoilt, on a roomy machine; whoever would start a run has been accepted."""
    copy = tmp_path / "place"
    shutil.copytree(furnished, copy)
    monkeypatch.chdir(copy)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=2**36))
    monkeypatch.setattr(os, "execv", lambda *command: None)
    monkeypatch.setattr(rnr_dist.recipes.pipeline, "run_pipeline", lambda *arguments: None)
    monkeypatch.setattr(rnr_dist.recipes.study, "run_study", lambda *arguments: "")
    return copy


def ended(command, capfd):
    """The command in this process, as `outcome.rnr` would have found it."""
    capfd.readouterr()
    trace = ""
    try:
        code = guarded(lambda: app([*command], standalone_mode=False))
    except Exception:  # what the interpreter would print and end with 1
        code, trace = 1, traceback.format_exc(limit=-3)
        assert TRACEBACK in trace
    captured = capfd.readouterr()
    return Ended(code, captured.out, captured.err + trace)


def test_the_list_has_as_many_as_it_says_and_half_of_them_from_the_fuzzer():
    assert len(CASES) == 80
    assert len(BY_HAND) == 40
    assert fuzzed() == all_cases()[40:]


SENTENCE = "rnr: config.yaml: seed: found yes, expected a whole number\n"


@pytest.mark.parametrize(
    ("code", "err", "fault"),
    [
        (2, SENTENCE, ""),
        (0, "", "accepted"),
        (0, SENTENCE, "accepted"),
        (1, f"{TRACEBACK}\nValueError: seed\n", "traceback"),
        (2, f"{TRACEBACK}\n{SENTENCE}", "traceback"),
        (-6, SENTENCE, "exit code -6"),
        (None, SENTENCE, "no end"),
        (2, f"warning: a library's\n{SENTENCE}", "2 lines"),
        (2, "", "0 lines"),
        (2, SENTENCE.removeprefix("rnr: "), "no sentence"),
        (2, f"{SENTENCE.strip()} {'x' * 3000}\n", "no sentence"),
        (2, SENTENCE.replace("seed", "a key"), "does not name seed"),
    ],
)
def test_only_one_sentence_with_exit_code_2_is_a_refusal(code, err, fault):
    assert fault_of(Ended(code, "", err), ("seed",)).startswith(fault)
    assert bool(fault_of(Ended(code, "", err), ("seed",))) == bool(fault)


def test_rows_count_for_the_sources_that_they_were_measured_with(tmp_path, monkeypatch):
    asked = []

    def cases(*names):
        return [(name, lambda name=name: asked.append(name) or {"fault": ""}) for name in names]

    assert len(Rows(tmp_path, "part").measure(cases("a", "b"))) == 2
    rows = Rows(tmp_path, "part").measure(cases("b", "c"))
    assert [row["case"] for row in rows] == ["b", "c"]
    assert asked == ["a", "b", "c"]
    monkeypatch.setattr(benchmarks.fault_parts.rows, "sources", lambda: "others")
    Rows(tmp_path, "part").measure(cases("a"))
    assert asked == ["a", "b", "c", "a"]


@pytest.mark.parametrize(
    "command",
    [
        ("check", "config.yaml"),
        ("check", "icu.yaml"),
        ("run", "config.yaml"),
        ("study", "study.yaml"),
        ("export", "run", "--adapter", "out", "--merged", "whole"),
    ],
    ids=" ".join,
)
def test_what_the_cases_spoil_is_accepted_as_it_was(place, command, capfd):
    if "run" in command[1:]:
        released_run(place)
    found = ended(command, capfd)
    assert found.code == 0, found.err


@pytest.mark.parametrize("name", CASES)
def test_a_bad_input_is_refused_in_one_sentence(place, name, capfd, monkeypatch):
    case = CASES[name]
    if case.needs_run:
        released_run(place)
    case.spoil(place)
    for variable, value in case.environment.items():
        monkeypatch.setenv(variable, value)
    found = ended(case.command, capfd)
    fault = fault_of(found, case.names)
    assert not fault, f"{case.why}: {fault}\n{found.err[-1500:]}"
