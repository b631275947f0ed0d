"""`rnr verify`: a whole run has nothing to tell, and whatever is done to one has a line."""

import json
import shutil

import pytest

from rnr_dist.commands.verify import verify_run
from rnr_dist.run.directory import RunDir, read_json, write, write_json, write_rows
from rnr_dist.run.events import EventLog
from rnr_dist.types import Arm, NamedModel
from rnr_dist.weights.checkpoints import resolve_model
from rnr_dist.weights.composition import save_adapter
from tests.unit.command_fakes import rnr
from tests.unit.run_fakes import checkpoint, content, pretended, replaced, runner, validate


@pytest.fixture
def config(tmp_path):
    (tmp_path / "openings.txt").write_text("So I told him\nAnd then she said\n")
    plain = content()
    source = {**plain["task"]["challenging"], "source": "openings.txt"}
    return validate({**plain, "task": {**plain["task"], "challenging": source}}, "")


@pytest.fixture
def run(tmp_path, config, monkeypatch):
    """A finished run with an adapter, a log, rows, figures."""
    import torch

    monkeypatch.chdir(tmp_path)
    checkpoint(tmp_path / "model", 0)
    base = resolve_model("./model")

    def reveal(bench, task, directory):
        folder = directory.stage("reveal")
        EventLog(folder / "events.jsonl").append({"event": "pull"}, {"event": "fill"})
        write_rows(folder / "arms.parquet", [Arm(1, (0.5,), "Say it")])

    def release(bench, task, directory):
        torch.manual_seed(0)
        factors = {"layers.0.q_proj": (torch.randn(2, 4), torch.randn(4, 2))}
        adapter = save_adapter(
            directory.path / "release" / "adapters" / "-f0",
            factors,
            alpha=2,
            base="",
            trained_on="t",
            side="forget",
        )
        result = base.plus(-1.0, adapter)
        models = [NamedModel("base", "reference", base), NamedModel("-f0", "step", result)]
        write(directory.stage("release") / "models.json", models)
        write_json(directory.path / "release" / "readings" / "a.json", 1)
        write_json(directory.path / "release" / "tune" / "state.json", "of Ray's own")

    def report(bench, task, directory):
        directory.stage("report")
        write_json(directory.path / "summary.json", {})
        (directory.stage("figures") / "steps.png").write_bytes(b"a figure")

    stages = {"reveal": reveal, "release": release, "report": report}
    recipes = {
        name: replaced(one, stages if name == "reveal-and-release" else {})
        for name, one in pretended([]).items()
    }
    go = runner(tmp_path / "run", monkeypatch, recipes=recipes)
    go(config, "baselines")
    go(config)
    return tmp_path / "run"


def told(run):
    return [(one.kind, str(one.path.relative_to(run.parent))) for one in verify_run(run).problems]


def flip(path):
    changed = bytearray(path.read_bytes())
    changed[len(changed) // 2] ^= 1
    path.write_bytes(changed)


def test_a_run_that_is_as_it_was_left_has_nothing_to_tell_and_stays_so(run, capsys):
    before = {path: path.stat() for path in run.rglob("*")}
    assert rnr("verify", run) == 0
    [line] = capsys.readouterr().out.splitlines()
    assert line.endswith("files read: all as they were left")
    assert int(line.split()[0]) >= 10
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == {
        path: stat.st_mtime_ns for path, stat in before.items()
    }


LISTED = [
    "reveal/events.jsonl",
    "reveal/arms.parquet",
    "release/models.json",
    "release/adapters/-f0/adapter_model.safetensors",
    "release/adapters/-f0/adapter_config.json",
    "release/readings/a.json",
    "evaluate/made.txt",
    "summary.json",
    "figures/steps.png",
]


@pytest.mark.parametrize("name", LISTED)
@pytest.mark.parametrize("do", ["flip", "cut", "delete"])
def test_each_file_that_a_stage_wrote_is_held_to_its_checksum(run, name, do, capsys):
    path = run / name
    if do == "flip":
        flip(path)
    elif do == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        path.unlink()
    assert rnr("verify", run) == 1
    *lines, last = capsys.readouterr().out.splitlines()
    kind = "missing" if do == "delete" else "damaged"
    assert any(line.startswith(kind) and str(path) in line for line in lines), lines
    assert "not as they were left" in last


def test_data_checkpoint_and_stages_before_are_held_to_what_was_noted(run, tmp_path):
    (tmp_path / "openings.txt").write_text("Another\n")
    assert ("changed", "run/reveal") in told(run)
    (tmp_path / "openings.txt").unlink()
    assert ("changed", "run/reveal") in told(run)
    (tmp_path / "openings.txt").write_text("So I told him\nAnd then she said\n")
    assert told(run) == []
    weights = tmp_path / "model" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + b"?")
    assert ("changed", "model") in told(run)
    weights.write_bytes(whole)
    manifest = read_json(run / "reveal" / "manifest.json")
    manifest["files"] = manifest["files"][:-1]
    write_json(run / "reveal" / "manifest.json", manifest)
    assert set(told(run)) == {
        ("stale", "run/release"),
        ("foreign", "run/reveal/events.jsonl"),
    }


def test_what_no_stage_wrote_is_foreign_and_what_a_kill_left_is_told(run):
    (run / "notes.txt").write_text("mine")
    (run / "reveal" / "more.json").write_text("{}")
    (run / "backup").mkdir()
    (run / "evaluate" / ".base.json.k3j_9x0a").write_text("ha")
    assert set(told(run)) == {
        ("foreign", "run/notes.txt"),
        ("foreign", "run/reveal/more.json"),
        ("foreign", "run/backup"),
        ("left", "run/evaluate/.base.json.k3j_9x0a"),
    }


@pytest.mark.parametrize("name", ["base.json", "reveal/manifest.json", "stages.json", "final.json"])
def test_a_damaged_note_is_told_beside_everything_else(run, name):
    (run / name).write_text('{"half": ')
    (run / "evaluate" / "made.txt").unlink()
    found = told(run)
    assert ("damaged", f"run/{name}") in found
    assert ("missing", "run/evaluate/made.txt") in found


def test_a_reading_of_final_that_nobody_noted_is_missing(run):
    assert len(read_json(run / "final.json")) == 2
    write_json(run / "final.json", read_json(run / "final.json")[:1])
    assert told(run) == [("missing", "run/final.json")]
    (run / "final.json").unlink()
    assert told(run) == [("missing", "run/final.json")] * 2


def test_what_an_unfinished_stage_has_written_can_at_least_be_read(run):
    shutil.rmtree(run / "evaluate")
    (run / "evaluate").mkdir()
    write_json(run / "evaluate" / ".begun.json", {"fingerprint": "x", "files": [], "inputs": None})
    write_json(run / "evaluate" / "base.json", {"name": "base"})
    write_rows(run / "evaluate" / "base.parquet", [Arm(1, (0.5,), "Say it")])
    EventLog(run / "evaluate" / "log.jsonl").append({"n": 1}, {"n": 2})
    found = [one for one in told(run) if one[0] != "stale"]
    assert found == []
    for name in ("base.json", "base.parquet", "log.jsonl"):
        content = (run / "evaluate" / name).read_bytes()
        (run / "evaluate" / name).write_bytes(content[: len(content) // 2] + b"\n")
        assert ("damaged", f"run/evaluate/{name}") in told(run)


def test_what_was_made_before_is_looked_at_too(run, config, monkeypatch):
    earlier = RunDir(run).begin("evaluate", "another config", {})
    assert earlier == run / "earlier" / "evaluate-0"
    flip(earlier / "made.txt")
    assert ("damaged", "run/earlier/evaluate-0/made.txt") in told(run)


def test_a_run_of_an_earlier_version_says_what_cannot_be_known(run):
    for name in ("reveal", "release", "evaluate", "report", "baselines"):
        path = run / name / "manifest.json"
        known = json.loads(path.read_text())
        del known["inputs"]
        known["files"] = [one for one in known["files"] if not one["path"].startswith("../")]
        path.write_text(json.dumps(known))
        (run / name / ".begun.json").write_text(json.dumps({"fingerprint": known["fingerprint"]}))
    found = verify_run(run)
    assert found.problems == []
    assert f"{run / 'reveal'}: of an earlier version, which noted no inputs" in found.notes


def test_what_is_no_run_is_refused(tmp_path, capsys):
    assert rnr("verify", tmp_path) == 2
    assert "no run directory (no config.json)" in capsys.readouterr().err
    (tmp_path / "config.json").write_text("{")
    (tmp_path / "layout.json").write_text('{"layout": 2}')
    assert rnr("verify", tmp_path) == 2
    assert "config.json: found no whole JSON" in capsys.readouterr().err
