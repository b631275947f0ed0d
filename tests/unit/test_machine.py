"""What a run works on: which engines are up, and in which order they are ended."""

import contextlib

import pytest

from rnr_dist.bench import Machine
from rnr_dist.config.file import validate
from rnr_dist.types import ModelRef

BASE, OTHER = ModelRef("/base", "b"), ModelRef("/other", "o")


@pytest.fixture
def told(monkeypatch):
    """What was started and ended, in order."""
    lines = []

    @contextlib.contextmanager
    def lived(name):
        lines.append(f"+{name}")
        try:
            yield name
        finally:
            lines.append(f"-{name}")

    monkeypatch.setattr("rnr_dist.bench.ray_session", lambda config: lived("ray"))
    monkeypatch.setattr(
        "rnr_dist.generate.cluster_pool.generator_pool",
        lambda config, base: lived(base.checkpoint),
    )
    monkeypatch.setattr(Machine, "base", BASE)
    return lines


def machine():
    return Machine(validate({"name": "small", "task": {"name": "extraction"}}, ""))


def test_engines_of_another_architecture_take_the_place_of_those_that_are_up(told):
    with machine() as one:
        assert one.pool == one.pool_of(BASE) == "/base"
        assert one.pool_of(OTHER) == "/other"
        assert one.pool == "/base"
    assert told == ["+ray", "+/base", "-/base", "+/other", "-/other", "+/base", "-/base", "-ray"]


def test_engines_that_do_not_come_up_leave_none_behind(told, monkeypatch):
    @contextlib.contextmanager
    def broken(config, base):
        raise RuntimeError("no room")
        yield

    with machine() as one:
        assert one.pool == "/base"
        with monkeypatch.context() as now:
            now.setattr("rnr_dist.generate.cluster_pool.generator_pool", broken)
            with pytest.raises(RuntimeError, match="no room"):
                one.pool_of(OTHER)
        assert told[-1] == "-/base"
        assert one.pool == "/base"
    assert told[-2:] == ["-/base", "-ray"]


def test_nothing_is_started_that_is_not_asked_for(told):
    with machine():
        pass
    assert told == []
