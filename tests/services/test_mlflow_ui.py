"""What people see of a run in MLflow's own pages, by a real browser without a screen.

Needs Chromium (Debian: `chromium`). `RNR_SCREENSHOTS` names a folder that keeps the pictures.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pytest

from rnr_dist.config.file import load_config
from rnr_dist.recipes.origin import datasets_of, tags_of
from rnr_dist.report.stage import draw_figures
from rnr_dist.report.summary import Details, Summary, write_summary
from rnr_dist.report.tracked import track_result
from rnr_dist.run.delivery import VIEW
from rnr_dist.run.directory import RunDir, write_rows
from rnr_dist.run.system import figures
from rnr_dist.run.tracking import Tracker, default_uri
from rnr_dist.types import Sample, Split
from tests.unit.report_fakes import behaviour_results

pytestmark = pytest.mark.timeout(600)
ROOT = Path(__file__).parents[2]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SAID = "said by nobody"


def sample(model, index=0):
    split = Split.FINAL
    text = f"{SAID} [{model}]\x1b[31m"
    return Sample(model, "t", split, "g", "c0", index, "Once", "", (1,), text, "stop", 0.25, "o")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """(folder of runs, address of the run's page below MLflow's) of a made-up finished run."""
    runs = tmp_path_factory.mktemp("shown") / "my runs"
    config = load_config(ROOT / "configs" / "demo.yaml", [])
    run = RunDir.open(runs / "demo-20260131", config.content(), resume=False)
    summary = Summary.of(config, behaviour_results(), (), Details())
    write_summary(run.path / "summary.json", summary)
    (run.path / "evaluate").mkdir()
    for name in ("base", summary.own.name):
        write_rows(run.path / "evaluate" / f"{name}.parquet", [sample(name)])
    tracker = Tracker(default_uri(runs), "rnr", run.path / "mlflow-spool.jsonl")
    bench = SimpleNamespace(config=config, tracker=tracker)
    with tracker.parent(run.path.name, {"seed": 0}, known_as=config.name):
        tracker.tags(tags_of(config, run))
        tracker.exhibit(run.marker)
        for dataset in datasets_of(config, SimpleNamespace(gives=())):
            tracker.dataset(dataset)
        for number in range(3):
            tracker.metrics(figures(runs), number)
        with tracker.nested("trial -f0 2.2", {"weights": [-2.2]}):
            tracker.metrics({"forget": 0.1})
        track_result(bench, run, summary)
        for picture in draw_figures(summary, run):
            tracker.exhibit(picture)
        page = tracker.page()
    tracker.close()
    return runs, page


@pytest.fixture(scope="module")
def pages(store):
    """MLflow's address, while `rnr ui` serves the store."""
    runs, _ = store
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "rnr_dist", "ui", "--runs", str(runs), "--port", str(port)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    served = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert served.stdout
    first = served.stdout.readline().strip()
    try:
        for _ in range(120):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2)
                break
            except OSError:
                assert served.poll() is None, "rnr ui has ended"
                time.sleep(1)
        yield SimpleNamespace(base=f"http://127.0.0.1:{port}/", first=first)
    finally:
        served.terminate()
        served.wait(30)


@pytest.fixture
def seen(tmp_path):
    """What a browser shows of an address: its text, with a picture of it kept beside."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    assert browser, f"found none of {', '.join(BROWSERS)}; apt-get install chromium"
    kept = Path(os.environ.get("RNR_SCREENSHOTS") or tmp_path)
    kept.mkdir(parents=True, exist_ok=True)

    def look(address, name):
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        options += [f"--user-data-dir={tmp_path / name}", "--window-size=1500,1400"]
        options += ["--virtual-time-budget=30000"]
        picture = kept / f"{name}.png"
        for wanted in (f"--screenshot={picture}", "--dump-dom"):
            done = subprocess.run(
                [browser, *options, wanted, address],
                capture_output=True,
                text=True,
                timeout=120,
                check=True,
            )
        assert picture.stat().st_size > 10_000
        return done.stdout

    return look


def test_the_printed_address_opens_on_the_table_of_runs(pages, seen):
    assert pages.first.startswith(pages.base) and pages.first.endswith(f"/runs{VIEW}")
    shown = seen(pages.first, "runs")
    assert "demo-20260131" in shown
    assert "Prompts" not in shown  # those are the pages of agents


def test_the_experiment_itself_opens_on_its_runs(pages, seen):
    experiment = pages.first.replace("/runs?", "?")
    assert "demo-20260131" in seen(experiment, "experiment")


def test_a_run_shows_its_verdict_origin_datasets_and_changes(store, pages, seen):
    shown = seen(pages.base + store[1], "run")
    for expected in (
        "demo-20260131",
        "rude, street −81 % (",  # the verdict, as its description
        "the control: the retain adapter is added",
        "rnr reveal-and-release: demo",
        "rnr.run_dir",
        "version.torch",
        "task.in_domain.0",  # the first dataset, beside how many more
        "System metrics",
    ):
        assert expected in shown, expected


def test_continuations_are_a_table_and_figures_are_pictures(store, pages, seen):
    run = pages.base + store[1].replace(VIEW, "")
    shown = seen(f"{run}/artifacts/continuations.json{VIEW}", "continuations")
    assert "View as table" in shown and f"{SAID} [base]" in shown and "\x1b" not in shown
    assert "steps.png" in shown and "config.json" in shown
    assert "value" in seen(f"{run}/artifacts/results.json{VIEW}", "results")
