"""How far a run is and how long it may still take: judged by what is known, or not at all."""

import pytest

from rnr_dist.run.directory import write_json
from rnr_dist.run.forecast import Forecast, duration, earlier

STAGES = ("reveal", "release", "evaluate", "report")


def test_an_earlier_run_of_the_config_gives_the_estimate():
    known = {"reveal": 60, "release": 300, "evaluate": 120, "report": 1}
    forecast = Forecast(STAGES, known)
    told = forecast.line("release")
    assert told == (
        "release: stage 2 of 4, about 7 min left, judging by an earlier run of this config"
    )


def test_without_one_the_stages_that_are_done_scale_what_others_took(monkeypatch):
    forecast = Forecast(STAGES)
    assert forecast.line("reveal") == "reveal: stage 1 of 4"  # nothing to judge by
    forecast.done("reveal", 600)
    seconds, judged = forecast.left(STAGES[1:])
    assert seconds == pytest.approx(600 / 0.15 * 0.855) and judged == "other configs"
    forecast.began -= 600
    assert "10 min so far, about 57 min left, judging by other configs" in forecast.line("release")


def test_stages_of_other_recipes_and_those_done_before_give_none():
    forecast = Forecast(("memorise", "icu"))
    forecast.done("memorise", 500)
    assert forecast.left(["icu"]) is None
    resumed = Forecast(STAGES)
    resumed.done("reveal", 0)
    assert resumed.left(STAGES[1:]) is None


def run(folder, name, *stages):
    folder.mkdir()
    write_json(folder / "config.json", {"name": name})
    rows = [{"name": stage, "wall_seconds": seconds} for stage, seconds in stages]
    write_json(folder / "stages.json", rows)
    return folder


def test_the_latest_other_run_of_that_name_is_found(tmp_path):
    own = run(tmp_path / "own", "demo", ("reveal", 1))
    run(tmp_path / "else", "other", ("reveal", 7))
    run(tmp_path / "before", "demo", ("reveal", 5), ("reveal", 6))  # interrupted once
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "stages.json").write_text("{")
    assert earlier(tmp_path, own, "demo") == {"reveal": 11}
    assert earlier(tmp_path, own, "third") == {}


def test_durations_are_read_at_a_glance():
    assert [duration(s) for s in (4.2, 89, 125, 3599, 8000)] == [
        "4 s",
        "89 s",
        "2 min",
        "60 min",
        "2.2 h",
    ]
