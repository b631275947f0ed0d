"""The run directory: whole files or none, an honest log, manifests that notice every change."""

import json
import os
import time

import pytest

from rnr_dist.errors import InputError
from rnr_dist.run.directory import (
    LAYOUT_NOTE,
    RunDir,
    differing_keys,
    read_json,
    read_rows,
    replacing,
    replacing_folder,
    write_json,
    write_rows,
)
from rnr_dist.run.events import EventLog
from rnr_dist.types import Arm, Context, Sample, Split

CONFIG = {"name": "one", "reveal": {"budget": 4, "arms": 8}}


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# Files


def test_an_error_keeps_the_old_file_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "value.json"
    write_json(path, {"a": 1})
    with pytest.raises(RuntimeError), replacing(path) as aside:
        aside.write_text("half of i")
        raise RuntimeError
    assert read_json(path) == {"a": 1}
    assert names(tmp_path) == ["value.json"]


def test_a_file_has_its_name_only_when_it_is_whole(tmp_path):
    path = tmp_path / "deep" / "down" / "value.txt"
    with replacing(path) as aside:
        aside.write_text("all of it")
        assert not path.exists()
    assert path.read_text() == "all of it"
    assert names(path.parent) == ["value.txt"]


def test_others_may_read_what_is_written(tmp_path):
    plain = tmp_path / "plain"
    plain.touch()
    write_json(tmp_path / "value.json", 1)
    assert (tmp_path / "value.json").stat().st_mode == plain.stat().st_mode


def test_folders_are_replaced_as_a_whole(tmp_path):
    folder = tmp_path / "adapter"
    with replacing_folder(folder) as aside:
        (aside / "old").write_text("1")
    with pytest.raises(RuntimeError), replacing_folder(folder) as aside:
        (aside / "half").touch()
        raise RuntimeError
    assert (names(tmp_path), names(folder)) == (["adapter"], ["old"])
    with replacing_folder(folder) as aside:
        (aside / "new").write_text("2")
        assert names(folder) == ["old"]
    assert (names(tmp_path), names(folder)) == (["adapter"], ["new"])


# Rows


def sample(**changes):
    fields = {
        "model": "m",
        "task": "toxicity",
        "split": Split.REVEAL,
        "group": "challenging",
        "context_id": "c",
        "index": 0,
        "prompt": "So I told him",
        "instruction": "",
        "token_ids": (1, 2, 3),
        "text": "schöne\nGrüße\x1f",
        "finish_reason": "length",
        "score": 0.25,
        "oracle": "profanity",
    }
    return Sample(**(fields | changes))


@pytest.mark.parametrize(
    "rows",
    [
        [sample(), sample(index=1, token_ids=(), text=""), sample(split=Split.FINAL, score=1.0)],
        [sample(token_ids=(), text="")],
        [
            Context("a", "one", Split.TRAIN, "ordinary"),
            Context("b", "two", Split.DEV, "x", "ref", 0.5),
        ],
        [Context("a", "one", Split.TRAIN, "ordinary")],
        [Arm(3, (0.1, 0.5), "Say it"), Arm(4, (1 / 3, 2 / 3), "")],
    ],
)
def test_rows_come_back_equal(tmp_path, rows):
    path = tmp_path / "rows.parquet"
    write_rows(path, rows)
    assert read_rows(path, type(rows[0])) == rows


def test_splits_come_back_as_splits(tmp_path):
    write_rows(tmp_path / "rows.parquet", [sample(split=Split.SEARCH)])
    [row] = read_rows(tmp_path / "rows.parquet", Sample)
    assert row.split is Split.SEARCH
    write_rows(tmp_path / "again.parquet", [row])
    assert read_rows(tmp_path / "again.parquet", Sample) == [row]


# The log


def test_events_come_back_in_order_and_whole(tmp_path):
    log = EventLog(tmp_path / "made" / "events.jsonl")
    assert log.read() == []
    events = [{"n": 1, "text": "two\nlines\rand\x85 a\u2028third"}, {"n": 2, "text": "Ü"}]
    for event in events:
        log.append(event)
    assert EventLog(log.path).read() == events


@pytest.mark.parametrize("cut", [1, 5, 11])
def test_a_torn_last_line_is_dropped_for_good(tmp_path, cut):
    log = EventLog(tmp_path / "events.jsonl")
    log.append({"n": 1})
    log.append({"n": 2})
    content = log.path.read_bytes()
    log.path.write_bytes(content[:-cut] if cut < 9 else content + b'{"n": 3}')
    kept = [{"n": 1}] if cut < 9 else [{"n": 1}, {"n": 2}]
    assert log.read() == kept
    log.append({"n": 9})  # must not be glued to what was torn
    assert log.read() == [*kept, {"n": 9}]


# Stages


@pytest.fixture
def run(tmp_path):
    run = RunDir.open(tmp_path / "run", CONFIG, resume=False)
    write_json(run.stage("reveal") / "pulls.json", [1, 2])
    write_rows(run.stage("reveal") / "deep" / "rows.parquet", [sample()])
    return run


def test_a_stage_is_done_once_its_manifest_stands(run):
    assert not run.done("reveal", "print")
    run.finish("reveal", "print")
    assert run.done("reveal", "print")
    assert not run.done("release", "print")
    manifest = read_json(run.path / "reveal" / "manifest.json")
    assert [file["path"] for file in manifest["files"]] == ["deep/rows.parquet", "pulls.json"]
    assert all(len(file["sha256"]) == 64 for file in manifest["files"])
    run.finish("reveal", "print")  # the manifest does not list itself
    assert read_json(run.path / "reveal" / "manifest.json") == manifest


def test_a_stage_of_other_inputs_is_not_done(run):
    run.finish("reveal", "print")
    assert not run.done("reveal", "other")


def test_a_file_that_changed_its_size_or_is_gone_undoes_its_stage(run):
    run.finish("reveal", "print")
    path = run.path / "reveal" / "pulls.json"
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    assert not run.done("reveal", "print")
    path.write_bytes(content)
    assert run.done("reveal", "print")
    path.unlink()
    assert not run.done("reveal", "print")


def test_what_a_stage_made_of_other_inputs_lies_in_earlier(run):
    assert run.begin("release", "one") is None
    made = run.stage("release") / "weights"
    made.write_text("one")
    assert run.begin("release", "one") is None, "what was interrupted goes on"
    assert made.read_text() == "one"
    for number, (before, now) in enumerate([("one", "two"), ("two", "one"), ("one", "three")]):
        moved = run.begin("release", now)
        assert moved == run.path / "earlier" / f"release-{number}"
        assert (moved / "weights").read_text() == before
        assert not made.exists()
        made.write_text(now)
    # Only manifests in the run itself count.
    run.finish("release", "three")
    assert run.finished() == {"release": "three"}
    assert read_json(run.path / "release" / "manifest.json")["files"][0]["path"] == "weights"
    run.begin("release", "four")
    assert run.finished() == {}


# The directory


def test_a_run_is_opened_again_only_to_go_on(run):
    again = RunDir.open(run.path, CONFIG, resume=True)
    assert again.path == run.path
    with pytest.raises(InputError, match=r"holds a run already.*--resume"):
        RunDir.open(run.path, CONFIG, resume=False)


def test_a_run_says_where_another_config_differs_until_it_takes_it(run):
    other = {"name": "one", "reveal": {"budget": 5, "arms": 8}}
    again = RunDir.open(run.path, other, resume=True)
    assert again.changed_keys(other) == ["reveal.budget"]
    assert read_json(run.marker) == CONFIG
    again.take_config(other)
    assert again.changed_keys(other) == []


@pytest.mark.parametrize(
    ("note", "found", "reader"),
    [(None, 1, "rnr_dist 0.1"), ({"layout": 1}, 1, "rnr_dist 0.1"), ({"layout": 3}, 3, "a newer")],
)
@pytest.mark.parametrize("resume", [False, True])
def test_a_run_of_another_layout_is_refused_and_says_who_reads_it(run, note, found, reader, resume):
    (run.path / LAYOUT_NOTE).unlink()
    if note:
        write_json(run.path / LAYOUT_NOTE, note)
    with pytest.raises(InputError, match=rf"found a run of layout {found}, expected 2; {reader}"):
        RunDir.open(run.path, CONFIG, resume)


def test_differing_keys_are_dotted():
    assert differing_keys(CONFIG, CONFIG) == []
    assert differing_keys({"a": {"b": [1]}, "c": 1}, {"a": {"b": [2]}, "d": 1}) == ["a.b", "c", "d"]


def test_other_folders_and_files_are_left_alone(tmp_path):
    taken = tmp_path / "photos"
    taken.mkdir()
    (taken / "cat.png").touch()
    with pytest.raises(InputError, match="not empty and no run"):
        RunDir.open(taken, CONFIG, resume=False)
    assert names(taken) == ["cat.png"]
    with pytest.raises(InputError, match=r"cat\.png: is a file"):
        RunDir.open(taken / "cat.png", CONFIG, resume=False)
    with pytest.raises(InputError, match=r"cat\.png.run: cannot be made"):
        RunDir.open(taken / "cat.png" / "run", CONFIG, resume=False)


def test_an_empty_folder_becomes_a_run_and_its_path_is_absolute(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    run = RunDir.open((tmp_path / "empty").relative_to(tmp_path), CONFIG, resume=False)
    assert run.path == tmp_path / "empty"
    assert json.loads((run.path / "config.json").read_text()) == CONFIG


# Damage


def test_a_damaged_line_ends_the_log_and_the_file_as_it_was_is_kept(tmp_path, capsys):
    log = EventLog(tmp_path / "events.jsonl")
    for number in range(4):
        log.append({"n": number})
    lines = log.path.read_bytes().splitlines(keepends=True)
    for bad in (b"\0" * 12 + b"\n", lines[2][:5] + b"\n", lines[2].replace(b'"n": 2', b'"n": 3')):
        damaged = b"".join([*lines[:2], bad, lines[3]])
        log.path.write_bytes(damaged)
        assert log.read() == [{"n": 0}, {"n": 1}]
        assert log.path.read_bytes() == b"".join(lines[:2])
        assert log.path.with_name("events.jsonl.damaged").read_bytes() == damaged
        told = " ".join(capsys.readouterr().err.split())
        assert f"{log.path}: line 3 of 4 is damaged; what it and later lines said is done" in told


def test_lines_of_earlier_versions_are_read_without_a_checksum(tmp_path):
    log = EventLog(tmp_path / "events.jsonl")
    log.path.write_text('{"n": 1}\n{"n": NaN, "text": "ü"}\n')
    log.append({"n": 2})
    first, second, third = log.read()
    assert (first, second["text"], third) == ({"n": 1}, "ü", {"n": 2})


@pytest.mark.parametrize("offset", [0.2, 0.5, 0.9])
def test_a_flipped_or_cut_parquet_file_is_named(tmp_path, offset):
    path = tmp_path / "rows.parquet"
    write_rows(path, [sample(index=number, text=f"words {number}" * 9) for number in range(50)])
    whole = path.read_bytes()
    for damaged in (flipped(whole, int(offset * len(whole))), whole[: int(offset * len(whole))]):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"rows\.parquet: ") as refused:
            read_rows(path, Sample)
        assert "\n" not in str(refused.value)


def flipped(content, place):
    changed = bytearray(content)
    changed[place] ^= 4
    return bytes(changed)


@pytest.mark.parametrize("content", ["", '{"a": ', "\0" * 9, '{"a": 1} x', "[" * 10**5, "\udc80"])
def test_a_damaged_json_file_of_a_run_is_one_sentence(run, content):
    path = run.path / "reveal" / "pulls.json"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError) as refused:
        read_json(path)
    told = str(refused.value)
    assert told.startswith(f"{path}: found no whole JSON (") and "\n" not in told
    assert told.endswith("expected what was written: remove it, and --resume makes it anew")


def test_a_file_is_summed_again_when_it_was_written_to_and_only_then(tmp_path, monkeypatch):
    from rnr_dist.run import digests

    path, read = tmp_path / "weights", []
    path.write_bytes(b"a" * digests.REMEMBERED_FROM)
    os.utime(path)
    time.sleep(2 * digests.CLOCK_SECONDS)
    real = digests.hashlib.file_digest
    monkeypatch.setattr(
        digests.hashlib, "file_digest", lambda file, kind: read.append(1) or real(file, kind)
    )
    first = digests.checksum(path)
    assert digests.checksum(path) == first and len(read) == 1
    stat = path.stat()
    with path.open("r+b") as handle:
        handle.write(b"b")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # as who wants to hide it
    assert digests.checksum(path) != first and len(read) == 2


def test_what_a_kill_cut_short_goes_when_its_stage_is_begun_again(run):
    folder = run.path / "reveal"
    (folder / ".pulls.json.k3j_9x0a").write_text("ha")
    (folder / "deep" / ".adapter.abcdefgh").mkdir()
    (folder / "deep" / ".adapter.abcdefgh" / "weights").touch()
    (folder / "tune").mkdir()
    (folder / "tune" / ".of_rays.abcdefgh").touch()
    (folder / ".hidden").touch()
    run.begin("reveal", "print")
    assert names(folder) == [".begun.json", ".hidden", "deep", "pulls.json", "tune"]
    assert names(folder / "deep") == ["rows.parquet"]
    assert names(folder / "tune") == [".of_rays.abcdefgh"]
