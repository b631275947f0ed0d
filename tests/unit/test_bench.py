"""What a run works on: which engines are up, and in which order they are ended."""

import contextlib
import pickle

import pytest

from rnr_dist.bench import Bench
from rnr_dist.config.file import validate
from rnr_dist.machine.placement import Node
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
    monkeypatch.setattr(Bench, "base", BASE)
    monkeypatch.setattr("rnr_dist.machine.cluster.joined_nodes", lambda: [Node(2, 1, 2)])
    return lines


def bench(**sections):
    content = {"name": "small", "task": {"name": "extraction"}, **sections}
    return Bench(validate(content, ""), "profanity")


ONE_GPU = {"engines": {"count": 2, "gpus_each": 0.3}, "workers": {"gpus_each": 1}}


def test_engines_end_where_a_training_needs_their_gpu_and_start_when_they_are_asked(told):
    with bench(**ONE_GPU) as one:
        assert one.endpoint == "/base"
        one.make_room()
        assert told == ["+ray", "+/base", "-/base"]
        one.make_room()  # nothing is left that could end
        assert one.endpoint == "/base"
    assert told == ["+ray", "+/base", "-/base", "+/base", "-/base", "-ray"]


def test_engines_on_cpus_stay_beside_a_training(told):
    with bench() as one:
        assert one.endpoint == "/base"
        one.make_room()
        one.make_room(reading=True)
        assert told == ["+ray", "+/base"]


def test_the_embedder_takes_a_gpu_only_where_it_never_stands_in_the_way(told, monkeypatch):
    held = []
    monkeypatch.setattr("rnr_dist.score.actors.start_scorer", lambda *given: held.append(given[-1]))
    with bench(**ONE_GPU) as one:
        _ = one.scorer
    monkeypatch.setattr("rnr_dist.machine.cluster.joined_nodes", lambda: [Node(2, 2, 2)])
    with bench(**ONE_GPU) as two:
        _ = two.scorer
    assert held == [0, 0.1]


def test_engines_of_another_architecture_take_the_place_of_those_that_are_up(told):
    with bench() as one:
        assert one.endpoint == one.endpoint_of(BASE) == "/base"
        assert one.endpoint_of(OTHER) == "/other"
        assert one.endpoint == "/base"
    assert told == ["+ray", "+/base", "-/base", "+/other", "-/other", "+/base", "-/base", "-ray"]


def test_a_bench_beside_has_the_others_engines_and_tokenizer_until_the_base_is_asked(
    told, monkeypatch
):
    monkeypatch.setattr(
        "transformers.AutoTokenizer.from_pretrained",
        lambda checkpoint, **options: f"tokenizer of {checkpoint}",
    )
    starts = []
    monkeypatch.setattr("rnr_dist.score.actors.start_scorer", lambda *_: starts.append(1) or starts)
    with bench() as one:
        assert (one.endpoint, one.tokenizer) == ("/base", "tokenizer of /base")
        other = one.beside(OTHER)
        assert (other.endpoint, other.tokenizer) == ("/other", "tokenizer of /other")
        assert other.scorer is one.beside(OTHER).scorer is one.scorer and len(starts) == 1
        assert (one.base, one.tokenizer) == (BASE, "tokenizer of /base")
        assert told == ["+ray", "+/base", "-/base", "+/other"]
        assert one.endpoint == "/base"
    assert told[4:] == ["-/other", "+/base", "-/base", "-ray"]


def test_engines_that_do_not_come_up_leave_none_behind(told, monkeypatch):
    @contextlib.contextmanager
    def broken(config, base):
        raise RuntimeError("no room")
        yield

    with bench() as one:
        assert one.endpoint == "/base"
        with monkeypatch.context() as now:
            now.setattr("rnr_dist.generate.cluster_pool.generator_pool", broken)
            with pytest.raises(RuntimeError, match="no room"):
                one.endpoint_of(OTHER)
        assert told[-1] == "-/base"
        assert one.endpoint == "/base"
    assert told[-2:] == ["-/base", "-ray"]


def test_what_is_entered_within_ray_ends_before_it(told):
    @contextlib.contextmanager
    def scored():
        told.append("+scores")
        yield "scores"
        told.append("-scores")

    with bench() as one:
        assert one.enter(scored) == "scores"
        assert told == ["+ray", "+scores"]
    assert told == ["+ray", "+scores", "-scores", "-ray"]


def test_nothing_is_started_that_is_not_asked_for(told):
    with bench():
        pass
    assert told == []


def test_what_a_trial_is_carried_holds_what_was_started_and_starts_nothing(told):
    with bench() as one:
        assert one.endpoint == "/base" and one.base == BASE
        started = list(told)
        carried = pickle.loads(pickle.dumps(one))
        assert (carried.endpoint, carried.base, carried.config) == ("/base", BASE, one.config)
        assert told == started
        with pytest.raises(AssertionError, match="only the driver records"):
            _ = carried.tracker


def test_a_trial_is_carried_no_tracking_server(told):
    uri = "http://anna:planted00@127.0.0.1:9"
    content = {"name": "small", "task": {"name": "extraction"}, "tracking": {"uri": uri}}
    one = Bench(validate(content, ""))
    assert one.config.tracking.uri == uri
    assert b"planted00" not in pickle.dumps(one)


def test_a_checkpoint_is_checked_once_and_before_anything_is_started(told, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr("rnr_dist.weights.checkpoints.resolve_model", lambda name, trusted: BASE)
    asked = []
    config = validate({"name": "small", "task": {"name": "extraction"}}, "")
    with Bench(config, check=lambda *given: asked.append(given)) as one:
        assert one.base is one.base is BASE
    assert [(config.name, str(folder)) for config, folder in asked] == [("small", "/base")]
    assert told == []
