"""Pieces of work side by side: in order, within their context, no more at once than allowed."""

import threading
import time
from contextvars import ContextVar

import pytest

from rnr_dist.machine.threads import apart, side_by_side
from rnr_dist.run.events import EventLog
from rnr_dist.run.tracking import Tracker

PLACE = ContextVar("place", default="nowhere")


@pytest.mark.parametrize("at_once", [1, 2, 5])
def test_outcomes_come_in_order_and_so_many_run_at_once(at_once):
    running, most = [], []

    def work(piece):
        running.append(piece)
        most.append(len(running))
        time.sleep(0.02)
        running.remove(piece)
        return piece, PLACE.get()

    PLACE.set("here")
    assert side_by_side(work, range(6), at_once) == [(n, "here") for n in range(6)]
    assert max(most) == at_once


def test_a_failure_is_raised_and_what_had_not_begun_stays_undone():
    done = []

    def work(piece):
        if piece == 0:
            raise RuntimeError("first")
        time.sleep(0.05)
        done.append(piece)

    with pytest.raises(RuntimeError, match="first"):
        side_by_side(work, range(9), 2)
    time.sleep(0.3)
    assert len(done) <= 3


def test_work_apart_is_not_in_the_main_thread_and_keeps_the_context():
    PLACE.set("here")
    thread, place = apart(lambda: (threading.current_thread(), PLACE.get()))
    assert thread is not threading.main_thread()  # where alone a handler of signals can be set
    assert place == "here"


def test_what_work_apart_raises_is_raised_here():
    def work():
        raise RuntimeError("there")

    with pytest.raises(RuntimeError, match="there"):
        apart(work)


def test_what_threads_log_belongs_to_their_own_runs(tmp_path, monkeypatch):
    """Both are open at the same time; entries are read from the spool, no server is there."""
    monkeypatch.setattr(Tracker, "_drain", lambda self: None)
    tracker = Tracker("http://127.0.0.1:9", "x", tmp_path / "spool.jsonl")
    both = threading.Barrier(2)

    def work(name):
        with tracker.nested(name, {}):
            both.wait(5)
            tracker.tag("who", name)
            both.wait(5)

    with tracker.parent("run", {}):
        side_by_side(work, ["a", "b"], 2)
        tracker.tag("who", "run")
    tracker.close()
    entries = EventLog(tmp_path / "spool.jsonl").read()
    tagged = {entry["content"]["who"]: entry["run"] for entry in entries if entry["kind"] == "tags"}
    assert {who: run["name"] for who, run in tagged.items()} == {"a": "a", "b": "b", "run": "run"}
    assert tagged["a"]["parent"]["key"] == tagged["b"]["parent"]["key"] == tagged["run"]["key"]
