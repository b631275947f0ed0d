"""The frame of benchmarks of parts: what is asked for is measured, and told as one JSON object."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import faults, gpu, operate, tasks
from benchmarks.parts import Benchmark, later

ROOT = Path(__file__).parents[2]
SCRIPTS = {"faults": faults.PARTS, "gpu": gpu.PARTS, "operate": operate.PARTS, "tasks": tasks.PARTS}


def script(*words, name):
    command = [sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), *words]
    wide = {**os.environ, "COLUMNS": "200"}  # so that no list of parts is broken
    return subprocess.run(command, env=wide, capture_output=True, text=True)


def benchmark(**more):
    """Two parts that note where they were called."""
    called = []

    def part(name, **figures):
        return lambda folder: (called.append((name, folder)), figures)[1]

    parts = {"first": part("first", speed=2.5, rows=7), "second": part("second", lost=0)}
    headlines = ("lost", "speed")
    return Benchmark("mine", "Measure.", "rows", parts, headlines, **more), called


def figures(capsys):
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_all_parts_are_measured_in_order_where_none_is_named(capsys, tmp_path):
    made, called = benchmark()
    made.main(["--folder", str(tmp_path / "kept")])
    assert called == [("first", tmp_path / "kept"), ("second", tmp_path / "kept")]
    assert (tmp_path / "kept").is_dir()
    assert figures(capsys) == {"lost": 0, "speed": 2.5, "rows": 7}


def test_a_headline_of_a_part_that_was_not_asked_for_is_null(capsys, tmp_path):
    made, called = benchmark()
    made.main(["second", "--folder", str(tmp_path)])
    assert [name for name, _ in called] == ["second"]
    assert figures(capsys) == {"lost": 0, "speed": None}


def test_the_order_is_that_of_the_parts_not_of_the_words(tmp_path):
    made, called = benchmark()
    made.main(["second", "first", "--folder", str(tmp_path)])
    assert [name for name, _ in called] == ["first", "second"]


def test_what_follows_is_told_with_what_was_found(capsys, tmp_path):
    made, _ = benchmark(follows=lambda found: {"lost": found["rows"] - 1})
    made.main(["first", "--folder", str(tmp_path)])
    assert figures(capsys) == {"lost": 6, "speed": 2.5, "rows": 7}


def test_nothing_is_measured_where_a_word_is_no_part(capsys, tmp_path):
    made, called = benchmark()
    with pytest.raises(SystemExit) as ended:
        made.main(["first", "third", "fourth", "--folder", str(tmp_path / "kept")])
    told = capsys.readouterr()
    assert ended.value.code == 2 and told.out == "" and called == []
    assert told.err.endswith("found fourth, third; expected some of first, second\n")
    assert not (tmp_path / "kept").exists()


def test_a_part_is_loaded_when_it_is_measured(tmp_path):
    part = later("no_parts.nowhere", "measure")
    with pytest.raises(ModuleNotFoundError, match="no_parts"):
        part(tmp_path)


@pytest.mark.parametrize("name", SCRIPTS)
def test_each_script_lists_its_parts_and_refuses_others(name):
    told = script("--help", name=name)
    assert told.returncode == 0, told.stderr
    assert ", ".join(SCRIPTS[name]) in told.stdout
    refused = script("third", name=name)
    assert refused.returncode == 2
    assert f"found third; expected some of {', '.join(SCRIPTS[name])}\n" in refused.stderr


@pytest.mark.parametrize(
    ("found", "follow"),
    [
        ({}, {}),
        ({"bad_inputs_not_refused": {"accepted": 2}, "bad_inputs": 80}, {"tracebacks": 2}),
        (
            {"damaged": 20, "damaged_tracebacks": ["a"], "damaged_silent": ["b"]},
            {"tracebacks": 1, "wrong_in_silence": 1},
        ),
        ({"models_silent": 3}, {"wrong_in_silence": 3}),
    ],
)
def test_faults_of_several_parts_are_added(found, follow):
    assert faults.follows(found) == follow


# A part of its own, in a process of its own: without the handler the signal ends it at once.
TOLD_TO_END = """
import os, signal, sys
from dataclasses import replace
from benchmarks import faults

def held(folder):
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        print("closed")

faults.BENCHMARK = replace(faults.BENCHMARK, parts={"held": held})
sys.argv = ["faults.py", "held", "--folder", sys.argv[1]]
faults.main()
"""


def test_faults_closes_what_a_part_holds_when_it_is_told_to_end(tmp_path):
    command = [sys.executable, "-c", TOLD_TO_END, str(tmp_path)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (143, "closed\n"), ended.stderr
