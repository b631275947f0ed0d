"""Room on a cluster: what is refused, what is waited for and for how long; actors that are away."""

import asyncio
import contextlib
import os
import signal
import socket
import types
from pathlib import Path

import numpy as np
import pytest
import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError, GetTimeoutError, RayTaskError

import rnr_dist
from rnr_dist.config.schema import Config
from rnr_dist.errors import InputError
from rnr_dist.machine import actors, cluster
from rnr_dist.machine.actors import answer, ask, started
from rnr_dist.machine.cluster import trainings_at_once, wait_for_room
from rnr_dist.score.actors import Scorer

SOURCE = {"source": "builtin:expository", "splits": {"final": 1}}
TASK = {"challenging": SOURCE, "ordinary": SOURCE, "in_domain": [SOURCE], "out_of_domain": [SOURCE]}


def config(**sections):
    return Config(name="x", task=TASK, **sections)


@pytest.fixture
def has(monkeypatch):
    """What the cluster's one node has."""

    def of(**resources):
        node = {"Alive": True, "Resources": resources}
        gone = {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 64.0}}
        monkeypatch.setattr(ray, "nodes", lambda: [node, gone])

    return of


@pytest.mark.parametrize(("cores", "expected"), [(2, 1), (5, 2), (8, 4)])
def test_so_many_trainings_as_there_are_cores_for(has, cores, expected):
    has(CPU=cores)
    assert trainings_at_once(config(workers={"count": 2, "cpus_each": 1})) == expected


def test_no_room_for_one_training_is_refused_and_not_one(has):
    has(CPU=3.0)
    with pytest.raises(InputError, match=r"workers\.count: found 2 .* of 2 core.* 3 .*at most 1"):
        trainings_at_once(config(workers={"count": 2, "cpus_each": 2}))


def test_trainings_run_beside_engines_or_one_by_one_in_their_place(has):
    has(CPU=64.0, GPU=8.0)
    gpus = {"count": 2, "gpus_each": 1}
    assert trainings_at_once(config(workers=gpus, engines={"count": 4, "gpus_each": 1})) == 2
    assert trainings_at_once(config(workers=gpus, engines={"count": 7, "gpus_each": 1})) == 1
    with pytest.raises(InputError, match=r"workers\.count: found 9 .* has 8 GPU.*at most 8"):
        trainings_at_once(config(workers={"count": 9, "gpus_each": 1}))


def test_more_workers_than_cores_are_refused_before_ray_starts(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    with pytest.raises(InputError, match=r"workers\.count: found 1 .* of 3 core.* has 2 core"):
        cluster.check_room(config(workers={"cpus_each": 3}), 0)


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(cluster, "ROOM_POLL_SECONDS", 0.001)
    monkeypatch.setattr(actors, "POLL_SECONDS", 0.001)


def test_what_other_jobs_hold_is_waited_for_and_said_once(quick, monkeypatch):
    told, free = [], iter([0.0, 1.0, 1.0, 2.0])
    monkeypatch.setattr(cluster, "say", told.append)
    wait_for_room("rnr_engine", 2, lambda: next(free))
    assert told == ["waiting for 2 of rnr_engine: 0 free, the rest is held by other jobs"]
    wait_for_room("rnr_engine", 2, lambda: 2.0)
    assert len(told) == 1


def test_it_is_not_waited_for_without_end(quick, monkeypatch):
    monkeypatch.setattr(cluster, "ROOM_SECONDS", 0.02)
    with pytest.raises(InputError, match=r"needs 2 of .* GPU, of which other jobs have left 1"):
        wait_for_room("GPU", 2, lambda: 1.0)


def test_the_environment_of_a_block_is_taken_back(monkeypatch):
    monkeypatch.setenv("RNR_KEPT", "before")
    monkeypatch.delenv("RNR_NEW", raising=False)
    with cluster._environment({"RNR_KEPT": "within", "RNR_NEW": "within"}):
        assert os.environ["RNR_KEPT"] == os.environ["RNR_NEW"] == "within"
    assert os.environ["RNR_KEPT"] == "before"
    assert "RNR_NEW" not in os.environ


def test_processes_of_ray_have_the_environment_and_the_driver_has_its_own_back(
    monkeypatch, tmp_path
):
    seen, session = {}, tmp_path / "session"

    def init(**options):
        seen.update(os.environ)
        signal.signal(signal.SIGTERM, lambda *_: None)  # as Ray does
        assert "runtime_env" not in options  # of which each process would be a new one
        return types.SimpleNamespace(address_info={"session_dir": str(session)})

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    for name in ("RAY_ADDRESS", "MALLOC_ARENA_MAX", "PYTHONPATH"):
        monkeypatch.setenv(name, "")  # taken back after the test
        monkeypatch.delenv(name)
    before = signal.getsignal(signal.SIGTERM)
    with cluster.ray_session(config()):
        assert seen["MALLOC_ARENA_MAX"] == "2"
        assert seen["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] == "1"  # no GPU for who asks for none
        assert str(Path(rnr_dist.__file__).parents[1]) in seen["PYTHONPATH"].split(os.pathsep)
        assert "MALLOC_ARENA_MAX" not in os.environ
        assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("error", "stays"),
    [(None, False), (InputError("a key"), False), (KeyboardInterrupt(), False), (OSError(), True)],
)
def test_logs_of_ray_stay_where_the_run_failed(error, stays, monkeypatch, tmp_path, capsys):
    logs = tmp_path / "session" / "logs"
    logs.mkdir(parents=True)
    info = {"session_dir": str(logs.parent)}
    monkeypatch.setattr(ray, "init", lambda **_: types.SimpleNamespace(address_info=info))
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with contextlib.suppress(BaseException), cluster.ray_session(config()):
        if error:
            raise error
    assert logs.exists() is stays
    told = capsys.readouterr()
    assert (str(logs) in told.err + told.out) is stays


def test_an_address_at_which_no_cluster_answers_is_named_at_once(monkeypatch):
    with socket.socket() as taken:  # bound, and listens to nobody
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        monkeypatch.setattr(ray, "init", lambda **_: pytest.fail("Ray would try for minutes"))
        with (
            pytest.raises(InputError, match=f"RAY_ADDRESS: found {address}, where no Ray cluster"),
            cluster.ray_session(config()),
        ):
            pass


def test_a_cluster_that_asks_for_a_token_is_told_from_one_that_is_not_there(monkeypatch):
    def init(**_):
        refused = ray.exceptions.AuthenticationError("InvalidAuthToken")
        raise ConnectionError("Failed to connect") from refused

    monkeypatch.setenv("RAY_ADDRESS", "auto")
    monkeypatch.setattr(ray, "init", init)
    with (
        pytest.raises(InputError, match="asks for a token; expected RAY_AUTH_MODE=token"),
        cluster.ray_session(config()),
    ):
        pass


# Actors


class Calls:
    """Fails so often, then answers; as Ray's object references and as `await` take it."""

    def __init__(self, *errors):
        self.errors = list(errors)

    def __call__(self):
        return self

    def get(self):
        if self.errors:
            raise self.errors.pop(0)
        return 7

    def __await__(self):
        yield from asyncio.sleep(0).__await__()
        return self.get()


@pytest.fixture(params=["ask", "answer"])
def asked(request, quick, monkeypatch):
    monkeypatch.setattr(ray, "get", lambda calls, timeout=None: calls.get())
    if request.param == "ask":
        return ask

    async def awaited(call):
        return await answer(call)

    return lambda call: asyncio.run(awaited(call))


AWAY = ActorUnavailableError("away", None)


def test_an_actor_that_is_away_is_asked_again(asked):
    assert asked(Calls(AWAY, AWAY, AWAY)) == 7


def test_it_is_not_asked_without_end(asked, monkeypatch):
    monkeypatch.setattr(actors, "WAIT_SECONDS", 0.02)
    with pytest.raises(ActorUnavailableError):
        asked(Calls(*[AWAY] * 10_000))


def test_one_that_is_gone_for_good_is_not_asked_again(asked):
    calls = Calls(AWAY, ActorDiedError())
    with pytest.raises(ActorDiedError):
        asked(calls)
    assert not calls.errors


def test_a_new_actor_that_finds_no_place_is_a_sentence(monkeypatch):
    monkeypatch.setattr(ray, "get", lambda calls, timeout=None: calls.get())
    with pytest.raises(InputError, match=r"^embedder x: did not start within 30 min"):
        started(Calls(GetTimeoutError()), "embedder x")
    bad = RayTaskError("version", "trace", InputError("oracle x: found nothing"))
    with pytest.raises(InputError, match=r"^oracle x: found nothing$"):
        started(Calls(bad.as_instanceof_cause()), "oracle x")


def test_a_scorer_asks_again_by_itself(quick, monkeypatch):
    class Actor:
        def __init__(self):
            self.score = self.embed = self
            self.errors = [AWAY, AWAY]

        def remote(self, *arguments):
            return self

        def get(self):
            if self.errors:
                raise self.errors.pop()
            return np.ones(1)

    monkeypatch.setattr(ray, "get", lambda reference: reference.get())
    scorer = Scorer(Actor(), Actor(), "v")
    assert scorer.score(["a"], ["b"]) == scorer.embed(["a"]) == 1


def test_a_cluster_that_does_not_answer_is_one_sentence(monkeypatch):
    def unreachable(**options):
        raise ConnectionError("ray client connection timeout\nmore")

    monkeypatch.setattr(ray, "init", unreachable)
    for address in ("auto", "127.0.0.1:1"):
        monkeypatch.setenv("RAY_ADDRESS", address)
        told = rf"^RAY_ADDRESS: found {address}, where no Ray cluster answers; expected"
        with pytest.raises(InputError, match=told), cluster.cluster_joined():
            pass
