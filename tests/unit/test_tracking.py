"""Tracking: what was logged is in MLflow, once, whatever happened on the way."""

import json
import math
import pickle
import shutil
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from mlflow import MlflowClient

from rnr_dist.errors import InputError
from rnr_dist.run.delivery import VIEW
from rnr_dist.run.tracking import Tracker, default_uri, runs_page, ui_command

NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory):
    """Made once: MLflow's migrations take seconds."""
    path = tmp_path_factory.mktemp("empty") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def runs(tmp_path, empty_database):
    folder = tmp_path / "my Läufe #1 50%20?"  # as on many a desktop
    folder.mkdir()
    shutil.copy(empty_database, folder)
    return folder


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")


def log_a_run(tracker, report):
    with tracker.parent("demo", {"seed": 0, "reveal": {"budget": 40}}):
        tracker.tag("mode", "default")
        with tracker.nested("outer 0", {"arms": 200}):
            for step, score in enumerate([0.2, 0.5]):
                tracker.metrics({"score": score}, step)
            tracker.headline({"forgotten": 1})
        tracker.metrics({"toxicity/challenging/fraction_gt_0.5": 0.02, "ratio": math.nan})
        tracker.artifact(report)


def found_runs(uri):
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("rnr")
    return client, client.search_runs([experiment.experiment_id]) if experiment else []


def check_run(uri, report):
    client, found = found_runs(uri)
    assert sorted(run.info.run_name for run in found) == ["demo", "outer 0"]
    by_name = {run.info.run_name: run for run in found}
    parent, nested = by_name["demo"], by_name["outer 0"]
    assert parent.data.params == {"seed": "0", "reveal.budget": "40"}
    assert parent.data.tags["mode"] == "default"
    assert parent.data.metrics["toxicity/challenging/fraction_gt_0.5"] == 0.02
    assert math.isnan(parent.data.metrics["ratio"])
    assert parent.data.metrics["forgotten"] == 1 and "forgotten" not in nested.data.metrics
    assert nested.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert nested.data.params == {"arms": "200"}
    history = client.get_metric_history(nested.info.run_id, "score")
    assert [(point.step, point.value) for point in history] == [(0, 0.2), (1, 0.5)]
    assert {run.info.status for run in found} == {"FINISHED"}
    assert all(run.info.start_time <= run.info.end_time for run in found)
    assert [file.path for file in client.list_artifacts(parent.info.run_id)] == [report.name]


@pytest.fixture
def report(tmp_path):
    path = tmp_path / "report.json"
    path.write_text("{}")
    return path


def test_parent_and_nested_runs_are_read_back_and_nothing_waits(tmp_path, report, capfd):
    runs = tmp_path / "frische Läufe #1 50%20?"
    spool = runs / "demo" / "mlflow.jsonl"
    tracker = Tracker(default_uri(runs), "rnr", spool)
    log_a_run(tracker, report)
    tracker.close()
    check_run(default_uri(runs), report)
    experiment = MlflowClient(default_uri(runs)).get_experiment_by_name("rnr").experiment_id
    assert runs_page(default_uri(runs)).endswith(f":5000/#/experiments/{experiment}/runs{VIEW}")
    assert spool.read_text() == ""
    assert (runs / "mlartifacts").is_dir()
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == [runs.name]
    said = capfd.readouterr()
    assert said.out == said.err == ""  # neither migrations nor links


def test_an_unreachable_server_spools_and_a_later_tracker_replays_once(runs, report, impatient):
    spool = runs / "demo" / "mlflow.jsonl"
    began = time.monotonic()
    tracker = Tracker(NOWHERE, "rnr", spool)
    log_a_run(tracker, report)
    tracker.close()
    assert time.monotonic() - began < 20
    waiting = spool.read_text()
    assert len(waiting.splitlines()) == 12

    Tracker(default_uri(runs), "rnr", spool)
    check_run(default_uri(runs), report)
    assert spool.read_text() == ""

    spool.write_text(waiting)  # as a crash between delivery and clearing would leave it
    Tracker(default_uri(runs), "rnr", spool)
    check_run(default_uri(runs), report)


def test_deliveries_that_break_off_lose_nothing(runs, report, monkeypatch):
    """Every third delivery fails, in turn before and after MLflow took the entry."""
    deliver, calls = Tracker._deliver, iter(range(1000))

    def flaky(self, entry):
        call = next(calls)
        if call % 6 == 2:
            raise ConnectionError("before")
        deliver(self, entry)
        if call % 6 == 5:
            raise ConnectionError("after")

    monkeypatch.setattr(Tracker, "_deliver", flaky)
    spool = runs / "mlflow.jsonl"
    tracker = Tracker(default_uri(runs), "rnr", spool)
    log_a_run(tracker, report)
    waiting = [len(spool.read_text().splitlines())]
    while waiting[-1]:
        tracker.close()
        waiting.append(len(spool.read_text().splitlines()))
    assert waiting[0] > waiting[1] > waiting[2] > 0  # broke off in the middle, more than once
    check_run(default_uri(runs), report)


def test_a_silent_server_is_not_asked_at_every_entry(runs, impatient, monkeypatch):
    contacts = []

    def refuse(self):
        contacts.append(1)
        raise ConnectionError

    monkeypatch.setattr(Tracker, "_connect", refuse)
    tracker = Tracker(NOWHERE, "rnr", runs / "mlflow.jsonl")
    with tracker.parent("demo", {}):
        for step in range(50):
            tracker.metrics({"loss": 1.0}, step)
    assert len(contacts) == 1
    tracker.close()
    assert len(contacts) == 2


def test_a_resumed_run_continues_and_a_failed_one_says_so(runs):
    spool = runs / "mlflow.jsonl"
    tracker = Tracker(default_uri(runs), "rnr", spool)
    with pytest.raises(ValueError, match="boom"), tracker.parent("demo", {"seed": 0}):
        tracker.metrics({"loss": 2.0}, 0)
        raise ValueError("boom")
    assert [run.info.status for run in found_runs(default_uri(runs))[1]] == ["FAILED"]

    with Tracker(default_uri(runs), "rnr", spool).parent("demo", {"seed": 0}):
        pass
    (run,) = found_runs(default_uri(runs))[1]
    assert run.info.status == "FINISHED" and run.data.metrics == {"loss": 2.0}

    with Tracker(default_uri(runs), "rnr", runs / "other.jsonl").parent("demo", {}):
        pass
    assert len(found_runs(default_uri(runs))[1]) == 2  # another run directory, another run


def test_nested_runs_of_one_name_stay_apart(runs):
    tracker = Tracker(default_uri(runs), "rnr", runs / "mlflow.jsonl")
    with tracker.parent("demo", {}):
        for coefficient in (1.0, 2.0):
            with tracker.nested("trial", {"coefficient": coefficient}):
                tracker.metrics({"utility": coefficient})
    trials = [run for run in found_runs(default_uri(runs))[1] if run.info.run_name == "trial"]
    assert sorted(run.data.params["coefficient"] for run in trials) == ["1.0", "2.0"]


def test_a_refused_entry_is_kept_aside_and_blocks_nothing(runs):
    spool = runs / "mlflow.jsonl"
    tracker = Tracker(default_uri(runs), "rnr", spool)
    with tracker.parent("demo", {}):
        tracker.metrics({"no such name?": 1.0})
        tracker.artifact(runs / "gone.png")
        tracker.metrics({"loss": 1.0})
    (run,) = found_runs(default_uri(runs))[1]
    assert run.data.metrics == {"loss": 1.0} and spool.read_text() == ""
    rejected = [
        json.loads(line) for line in (runs / "mlflow.jsonl.rejected").read_text().splitlines()
    ]
    assert [entry["kind"] for entry in rejected] == ["metrics", "artifact"]
    assert "no such name?" in rejected[0]["reason"] and "gone.png" in rejected[1]["reason"]


def test_the_pages_stay_on_loopback(runs):
    command = ui_command(default_uri(runs), port=5055)
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert command[command.index("--port") + 1] == "5055"
    assert command[command.index("--backend-store-uri") + 1] == default_uri(runs)
    with pytest.raises(InputError, match=r"the server http://tracking\.example"):
        ui_command("http://tracking.example:5000")


def test_threads_may_log_at_once(runs):
    tracker = Tracker(default_uri(runs), "rnr", runs / "mlflow.jsonl")
    with tracker.parent("demo", {}), ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda step: tracker.metrics({"loss": float(step)}, step), range(40)))
    client, (run,) = found_runs(default_uri(runs))
    history = client.get_metric_history(run.info.run_id, "loss")
    assert sorted(point.step for point in history) == list(range(40))


@pytest.mark.parametrize("bad", [b"\0" * 16, b'{"run": ', b"[1]", b'{"a": 1}', b"\xff\xfe"])
def test_a_damaged_line_of_the_spool_stops_no_run_and_loses_no_other(
    runs, report, impatient, bad, capfd
):
    spool = runs / "run" / "spool.jsonl"
    log_a_run(Tracker(NOWHERE, "rnr", spool), report)
    lines = spool.read_bytes().splitlines(keepends=True)
    spool.write_bytes(b"".join([*lines[:2], bad + b"\n", *lines[2:]]))
    Tracker(default_uri(runs), "rnr", spool).close()
    check_run(default_uri(runs), report)
    assert spool.read_bytes() == b""
    [kept] = map(json.loads, (runs / "run" / "spool.jsonl.rejected").read_text().splitlines())
    assert kept["reason"] == "found no whole entry"
    assert "1 damaged lines are kept in spool.jsonl.rejected" in " ".join(
        capfd.readouterr().err.split()
    )


def test_an_identity_that_a_full_disk_left_empty_is_made_again(runs, report):
    spool = runs / "run" / "spool.jsonl"
    spool.parent.mkdir()
    spool.with_name("spool.jsonl.id").write_text("")
    Tracker(default_uri(runs), "rnr", spool)
    assert len(json.loads(spool.with_name("spool.jsonl.id").read_text())) == 32


def test_a_renamed_run_directory_goes_on_in_its_run_under_its_new_name(runs):
    spool = runs / "mlflow.jsonl"
    with Tracker(default_uri(runs), "rnr", spool).parent("demo-1", {}, known_as="demo"):
        pass
    with Tracker(default_uri(runs), "rnr", spool).parent("best", {}, known_as="demo"):
        pass
    [run] = found_runs(default_uri(runs))[1]
    assert run.info.run_name == "best"


def test_what_shows_the_whole_run_is_the_parent_s_and_tables_are_replaced(
    runs, report, monkeypatch
):
    table = report.with_name("table.json")
    tracker = Tracker(default_uri(runs), "rnr", runs / "mlflow.jsonl")
    with tracker.parent("demo", {}):
        for said in ("before", "now"):
            table.write_text(json.dumps({"columns": ["said"], "data": [[said]]}))
            with tracker.nested("report", {}):
                tracker.exhibit(table, table=True)
                tracker.exhibit(report)
                tracker.tags({"version": "1"})
        assert tracker.page().startswith("#/experiments/")
    client, found = found_runs(default_uri(runs))
    [parent] = [run for run in found if run.info.run_name == "demo"]
    files = {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert files == {"table.json", "report.json"} and parent.data.tags["version"] == "1"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", default_uri(runs))  # load_table reads no other
    shown = client.load_table(parent.info.experiment_id, "table.json", [parent.info.run_id])
    assert shown.values.tolist() == [["now"]]
    experiment = client.get_experiment(parent.info.experiment_id)
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"


def test_what_is_not_set_is_no_parameter_and_a_tracker_goes_nowhere_else(runs):
    tracker = Tracker(default_uri(runs), "rnr", runs / "mlflow.jsonl")
    with tracker.parent(
        "demo", {"writer": None, "limit": {}, "stop": [], "model": "", "off": False}
    ):
        assert not isinstance(pickle.loads(pickle.dumps(tracker)), Tracker)
    [run] = found_runs(default_uri(runs))[1]
    assert run.data.params == {"off": "False"}


def test_where_mlflow_was_not_reached_there_is_no_page(runs, impatient):
    tracker = Tracker(NOWHERE, "rnr", runs / "mlflow.jsonl")
    with tracker.parent("demo", {}):
        assert tracker.page() == ""
