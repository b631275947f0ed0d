"""The pool grows and shrinks between its bounds, by work and room, and loses nothing on the way."""

import asyncio

import pytest

from rnr_dist import check
from rnr_dist.config.file import load_config
from rnr_dist.errors import InputError
from rnr_dist.generate.pool import EngineDiedError
from rnr_dist.generate.scaling import Limits, Scaler
from rnr_dist.machine.placement import Node, asked_of, generators_with_room
from tests.unit.pool_fakes import ONE, FakeGenerator, answers_of, requests, serve

pytestmark = pytest.mark.usefixtures("restarts_are_polled_quickly")
DEMO = "configs/demo.yaml"


class Gated(FakeGenerator):
    """Answers only once its gate is open."""

    def __init__(self, gate, **settings):
        super().__init__(**settings)
        self.gate = gate

    async def run(self, requests, model):
        await self.gate.wait()
        return await super().run(requests, model)


class FakeGround:
    """A cluster with places for `places` generators, of which the pool's first hold one."""

    def __init__(self, places, first=1, kind=FakeGenerator):
        self.places, self.kind = places, kind
        self.living, self.wanted, self.ended = first, [], []
        self.idle = 0  # places that are free now and belong to a training

    async def room(self):
        return self.places

    async def free(self):
        return max(0, self.places - self.living) + self.idle

    async def want(self, generators):
        self.wanted.append(generators)

    def start(self, number):
        self.living += 1
        self.last = self.kind()
        return self.last

    async def end(self, link):
        self.living -= 1
        self.ended.append(link)


def scaled(work, places, most=4, count=60):
    """`work(scaler, gate, job)` while `count` requests wait behind a closed gate."""
    gate = asyncio.Event()
    links = [Gated(gate)]
    ground = FakeGround(places, kind=lambda: Gated(gate))

    async def scenario(pool):
        scaler = Scaler(pool, ground, Limits(1, most, in_flight=2, idle_seconds=60))
        job = asyncio.create_task(pool.submit(ONE, requests(count)))
        await asyncio.sleep(0.01)
        await work(scaler, gate, job)
        gate.set()
        return await job

    assert serve(links, scenario) == answers_of(ONE, requests(count))
    return ground


@pytest.mark.parametrize(("batches", "busy"), [(0, 2), (4, 2), (5, 3), (99, 8)])
def test_work_keeps_generators_busy_within_the_bounds(batches, busy):
    assert Limits(2, 8, in_flight=2, idle_seconds=60).busy(batches) == busy


@pytest.mark.parametrize(("places", "most", "living"), [(9, 4, 4), (3, 4, 3), (1, 4, 1)])
def test_it_grows_while_requests_wait_as_far_as_bounds_and_room_allow(places, most, living):
    async def work(scaler, gate, job):
        await scaler.step(0)
        assert scaler.pool.living == living
        await scaler.step(1)
        assert scaler.pool.living == living

    ground = scaled(work, places, most)
    assert ground.living == living
    assert ground.wanted == [most]  # an autoscaler is told once, of what is wanted in all


def test_it_takes_no_place_that_is_a_trainings_though_it_is_free_now():
    async def work(scaler, gate, job):
        scaler.ground.idle = 9
        await scaler.step(0)
        assert scaler.pool.living == 2

    scaled(work, places=2)


def test_it_grows_when_the_cluster_does():
    async def work(scaler, gate, job):
        await scaler.step(0)
        assert scaler.pool.living == 1
        scaler.ground.places = 3
        await scaler.step(1)
        assert scaler.pool.living == 3

    scaled(work, places=1)


def test_little_work_needs_no_more_generators():
    async def work(scaler, gate, job):
        await scaler.step(0)

    ground = scaled(work, places=9, count=6)  # two batches: one generator holds both
    assert ground.living == 1 and ground.wanted == [0]


def test_what_has_nothing_to_do_for_a_minute_is_given_back():
    async def work(scaler, gate, job):
        await scaler.step(0)
        gate.set()
        await job
        await scaler.step(59)
        assert scaler.pool.living == 4
        await scaler.step(120)
        assert scaler.pool.living == 1
        told = [await scaler.pool.next_change(), await scaler.pool.next_change()]
        assert told == [
            "3 generator(s) more, as requests wait: 4 now",
            "3 generator(s) given back (nothing to do): 1 now",
        ]

    ground = scaled(work, places=9)
    assert ground.living == 1 and len(ground.ended) == 3
    assert ground.wanted == [4, 0]


def test_it_shrinks_at_once_when_the_cluster_has_no_room_any_more_and_loses_no_answer():
    async def work(scaler, gate, job):
        await scaler.step(0)
        await asyncio.sleep(0.01)  # all hold batches
        scaler.ground.places = 2
        shrinking = asyncio.create_task(scaler.step(1))
        await asyncio.sleep(0.01)
        assert not scaler.ground.ended  # what holds a batch is not ended
        gate.set()
        await shrinking
        assert scaler.pool.living == 2

    ground = scaled(work, places=4)
    assert ground.living == 2
    # Nothing was asked twice: those that went had answered what they held.
    assert all(not link.under_way for link in ground.ended)


def test_one_that_is_lost_is_replaced_when_there_is_room():
    async def work(scaler, gate, job):
        await scaler.step(0)
        assert scaler.pool.living == 2
        scaler.ground.last.gone_after = 0  # a spot machine goes
        gate.set()
        await asyncio.sleep(0.05)
        assert scaler.pool.living == 1
        await scaler.step(1)
        assert len(scaler.ground.ended) == 1

    scaled(work, places=2, most=2)


def test_one_that_is_lost_while_it_shall_leave_is_not_waited_for():
    async def work(scaler, gate, job):
        await scaler.step(0)
        await asyncio.sleep(0.01)
        lost = scaler.ground.last

        async def ready():
            raise EngineDiedError("restarting, for ever")

        lost.ready, lost.alive = ready, False
        gate.set()
        scaler.ground.places = 1
        await asyncio.wait_for(scaler.step(1), 5)
        assert scaler.pool.living == 1

    scaled(work, places=2, most=2)


def test_one_that_never_came_up_is_given_back_too():
    class Pending(FakeGenerator):
        async def ready(self):
            await asyncio.sleep(10**6)

    gate = asyncio.Event()

    async def scenario(pool):
        ground = FakeGround(2, kind=Pending)
        scaler = Scaler(pool, ground, Limits(1, 2, in_flight=2, idle_seconds=60))
        job = asyncio.create_task(pool.submit(ONE, requests(60)))
        await asyncio.sleep(0.01)
        await scaler.step(0)
        await asyncio.sleep(0.01)
        await asyncio.wait_for(scaler.give_back(1), 5)
        assert pool.living == 1 and ground.living == 1
        gate.set()
        return await job

    assert serve([Gated(gate)], scenario) == answers_of(ONE, requests(60))


def test_room_that_a_training_needs_is_left_to_it_for_a_while():
    async def work(scaler, gate, job):
        await scaler.step(0)
        gate.set()
        await scaler.give_back(1)
        assert scaler.pool.living == 1
        again = asyncio.create_task(scaler.pool.submit(ONE, requests(60, first=100)))
        gate.clear()
        await asyncio.sleep(0.01)
        await scaler.step(2)
        assert scaler.pool.living == 1
        await scaler.step(62)
        assert scaler.pool.living == 4
        gate.set()
        await again

    scaled(work, places=9)


def test_the_end_of_a_pool_ends_those_that_it_has_grown_by():
    async def work(scaler, gate, job):
        await scaler.step(0)
        gate.set()
        await job
        await scaler.close()

    ground = scaled(work, places=9)
    assert ground.living == 1 and ground.wanted == [4, 0]


# The config, and the sum of places


def test_most_below_count_is_refused():
    with pytest.raises(InputError, match=r"most: found 1, expected at least count, 2"):
        load_config(DEMO, ["engines.most=1"])


def test_check_tells_both_bounds():
    lines = check("demo", {"engines.most": 6})
    assert [line for line in lines if line.startswith("engines 2 to 6 of 1 core(s), ")]


def test_left_out_the_pool_stays_as_it_is():
    assert load_config(DEMO, []).engines.greatest == 2


@pytest.mark.parametrize(
    ("settings", "nodes", "room"),
    [
        # On CPUs engines take a slot and trainings cores: neither is in the other's way.
        ([], [Node(cpus=2, engines=8)], 6),
        ([], [Node(cpus=2), Node(cpus=4, engines=3)], 3),
        # The writer of instructions has one as well, for a while.
        (["reveal.writer=embedded:smollm2-135m-instruct"], [Node(cpus=2, engines=4)], 3),
        # On GPUs a training keeps its own, and the embedder its tenth of one.
        (["engines.gpus_each=1", "workers.gpus_each=1"], [Node(cpus=8, gpus=4)], 3),
        (["engines.gpus_each=1", "workers.gpus_each=1"], [Node(cpus=8, gpus=8)], 6),
        # Engines that end before a training may have all GPUs.
        (["engines.gpus_each=1", "workers.gpus_each=1"], [Node(cpus=8, gpus=2)], 2),
        # No room even for the training.
        (["workers.gpus_each=1"], [Node(cpus=8, engines=8)], 0),
    ],
)
def test_room_is_what_is_left_beside_all_else_in_each_phase(settings, nodes, room):
    config = load_config(DEMO, ["engines.count=2", "engines.most=6", *settings])
    assert generators_with_room(config, nodes) == room


def test_an_autoscaler_is_asked_for_generators_beside_a_training():
    config = load_config(DEMO, ["engines.most=6", "workers.cpus_each=2"])
    assert asked_of(config, 3) == [{"rnr_engine": 1}] * 3 + [{"CPU": 2}]
    config = load_config(DEMO, ["engines.gpus_each=0.5", "workers.gpus_each=1"])
    assert asked_of(config, 2) == [{"GPU": 0.5}] * 2 + [{"GPU": 1}]
