"""The README's block of what the demo prints is what its stored run would print today."""

import io
import shutil
from pathlib import Path

from rich.console import Console

from rnr_dist.report.closing import Command, close
from rnr_dist.report.summary import read_summary
from rnr_dist.report.table import measure_tables

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
STORED = ROOT / "docs" / "results" / "demo-seed0-verdict.json"
RUN = Path("runs") / "demo-20261127-085125"
PAGE = "#/experiments/1/runs/8fdc5698c23d48878868f80a11fdf88b?workflowType=machine_learning"
INDENT = "    "


def demo_end():
    """The first table of `make demo`, and all that stands below its last one, as Markdown's code.

    In a folder that holds the run's summary at its place."""
    console = Console(width=80, file=io.StringIO(), markup=False, emoji=False, record=True)
    found = read_summary(STORED)
    console.print(measure_tables(found.rows, found.declared, found.reference, found.preset)[0])
    console.print("...")
    RUN.mkdir(parents=True)
    shutil.copy(STORED, RUN / "summary.json")
    close(Command("run", Path("configs/demo.yaml"), (), RUN), "", PAGE, console)
    console.print(str(RUN), soft_wrap=True)
    return "".join(f"{INDENT}{line}".rstrip() + "\n" for line in console.export_text().splitlines())


def test_the_readme_shows_what_the_demo_prints(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    block = README.read_text(encoding="utf-8").split("<!-- demo output -->\n")[1]
    assert block.split("<!-- end of demo output -->")[0].strip("\n") == demo_end().strip("\n")


def test_its_first_figure_is_the_same_run_s(tmp_path):
    found = read_summary(STORED)
    minutes = round(sum(stage["wall_seconds"] for stage in found.stages) / 60)
    peak = max(stage["peak_memory_gib"] for stage in found.stages)
    [row] = [
        line
        for line in README.read_text(encoding="utf-8").splitlines()
        if line.startswith("| toxic continuations after the demo")
    ]
    assert f"{minutes} minutes, {peak:.1f} GiB" in row
    score = found.own.scores[found.declared.target.name]
    change = (score.ratio, *score.ratio_ci95)
    value, low, high = (f"{100 * (one - 1):.0f}".replace("-", "−") for one in change)
    assert f"{value} % (95 %: {low} … {high} %)" in row
