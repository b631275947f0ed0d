"""Who has a place where: against small clusters worked out by hand, and against trying all ways."""

import itertools

import pytest

from rnr_dist.config.schema import Config
from rnr_dist.errors import InputError
from rnr_dist.machine.placement import (
    Actor,
    Node,
    arrange,
    fits,
    fitting,
    place,
    require_host,
    workers_of,
)

SOURCE = {"source": "builtin:expository", "splits": {"final": 1}}
TASK = {"challenging": SOURCE, "ordinary": SOURCE, "in_domain": [SOURCE], "out_of_domain": [SOURCE]}


def config(**sections):
    return Config(name="x", task=TASK, **sections)


def gpus(engines, workers, writer="", **more):
    """(count, each) of engines, workers with a GPU each."""
    count, each = engines
    return config(
        engines={"count": count, "gpus_each": each},
        workers={"count": workers, "gpus_each": 1},
        reveal={"writer": writer},
        **more,
    )


@pytest.mark.parametrize(
    ("engines", "workers", "nodes", "yielding", "embedder", "trainings"),
    [
        # One GPU in all: engines end for the training, the embedder stays on a CPU.
        ((2, 0.3), 1, [1], True, 0, 1),
        ((1, 1), 1, [1], True, 0, 1),
        # Two: an engine's card has room for the embedder, or it has not.
        ((2, 0.3), 1, [2], False, 0.1, 1),
        ((1, 1), 1, [2], False, 0, 1),
        ((1, 0.9), 1, [2], False, 0.1, 1),
        # Eight on one node: a training more is worth more than the embedder's GPU.
        ((4, 1), 2, [8], False, 0, 2),
        ((4, 0.45), 2, [8], False, 0.1, 3),
        ((7, 1), 2, [8], True, 0, 1),
        # A whole GPU of halves on two cards is none.
        ((2, 2), 1, [2, 2], True, 0, 1),
        ((1, 2), 2, [2, 2], False, 0, 1),
        ((3, 0.6), 1, [2, 2], False, 0.1, 1),
    ],
)
def test_who_lives_beside_whom(engines, workers, nodes, yielding, embedder, trainings):
    found = place(gpus(engines, workers), [Node(8, number, 0) for number in nodes])
    assert (found.yielding, found.embedder_gpus, found.trainings) == (yielding, embedder, trainings)


def test_what_lives_in_each_phase_is_told():
    found = place(gpus((2, 0.3), 1), [Node(8, 1)])
    told = {phase.name: [actor.name for actor in phase.actors] for phase in found.phases}
    assert told == {
        "reading": ["generators"],
        "training": ["training worker(s)"],
        "arm features": ["reader of arms' features"],
    }
    assert found.reading_yields
    on_cpus = place(config(), [Node(2, 0, 2)])
    assert [phase.name for phase in on_cpus.phases] == ["reading", "training"]
    assert not on_cpus.yielding and not on_cpus.reading_yields


@pytest.mark.parametrize(
    ("sections", "nodes", "told"),
    [
        (gpus((5, 0.5), 1), [2], r"engines\.count: found 5 .* of 0\.5 GPU.*has 2 .*at most 4"),
        (gpus((1, 2), 1), [1, 1], r"engines\.count: found 1 .* of 2 GPU.* on 2 nodes; .*at most 0"),
        (gpus((2, 0.7), 1), [1], r"engines\.count: found 2 .* at most 1"),
        (gpus((1, 1), 3), [2], r"workers\.count: found 3 .* has 2 GPU.*at most 2"),
        (gpus((2, 1), 1, writer="embedded:smollm2-135m-instruct"), [2], r"reveal\.writer: found 1"),
        (gpus((1, 1), 1), [0], r"engines\.count: found 1 .* has 0 GPU"),
    ],
)
def test_what_would_wait_for_ever_is_refused(sections, nodes, told):
    with pytest.raises(InputError, match=told):
        place(sections, [Node(8, number) for number in nodes])


def test_cores_and_engine_slots_are_counted_by_node():
    workers = {"count": 2, "cpus_each": 3}
    place(config(workers=workers), [Node(3, 0, 1), Node(3, 0, 1)])
    with pytest.raises(InputError, match=r"workers\.count: .* has 8 core.* 2 nodes; .* at most 0"):
        place(config(workers={"count": 1, "cpus_each": 5}), [Node(4, 0, 1), Node(4, 0, 1)])
    with pytest.raises(InputError, match=r"engines\.count: found 2 .* has 1 rnr_engine slot"):
        place(config(), [Node(8, 0, 1)])


def brute(gpu_counts, wanted):
    """Whether GPUs of nodes can hold these amounts, by trying every way."""
    cards = [(node, card) for node, count in enumerate(gpu_counts) for card in range(count)]

    def ways(amount):
        if amount <= 1:
            return [(card,) for card in cards]
        return [
            chosen
            for chosen in itertools.combinations(cards, int(amount))
            if len({node for node, _ in chosen}) == 1
        ]

    for chosen in itertools.product(*map(ways, wanted)):
        held = dict.fromkeys(cards, 0.0)
        for amount, taken in zip(wanted, chosen, strict=True):
            for card in taken:
                held[card] += min(amount, 1)
        if all(value <= 1 + 1e-9 for value in held.values()):
            return True
    return False


def test_what_is_said_to_fit_does_and_what_runs_the_usual_way_is_found():
    """Never too much; and largest first, as configs have it, nothing is missed."""
    amounts = (0.3, 0.5, 1, 2)
    for nodes in ((1,), (2,), (1, 2), (2, 2)):
        for wanted in itertools.combinations_with_replacement(amounts, 3):
            for order in set(itertools.permutations(wanted)):
                actors = [Actor("a", "a", 1, gpus=amount) for amount in order]
                said = fits([Node(0, count) for count in nodes], actors)
                assert not said or brute(nodes, wanted), (nodes, order)
                if list(order) == sorted(order, reverse=True):
                    assert said == brute(nodes, wanted), (nodes, order)


def test_so_many_as_fit_are_counted():
    actors = [Actor("a", "a", 3, gpus=0.5), Actor("b", "b", 9, gpus=1), Actor("c", "c", 4, cpus=2)]
    assert fitting([Node(5, 3)], actors) == [3, 1, 2]


def test_engines_on_cpus_are_in_no_trainings_way():
    """They hold no cores, and a cluster's slots for them were counted when it was joined."""
    found = arrange(config(workers={"cpus_each": 1}), [Node(3, 0, 0)])
    assert (found.yielding, found.trainings, found.embedder_gpus) == (False, 3, 0)
    mixed = config(engines={"count": 1, "gpus_each": 1})
    assert not place(mixed, [Node(2, 1)]).yielding


@pytest.mark.parametrize(
    ("nodes", "together", "has"),
    [
        ([Node(gpus=8, gib=120)], 4, 120),  # all four on one machine
        ([Node(gpus=2, gib=70), Node(gpus=2, gib=60)], 2, 60),
        ([Node(gpus=1, gib=40), Node(gpus=3, gib=90)], 3, 90),
    ],
)
def test_workers_that_share_a_machine_share_its_memory(nodes, together, has):
    four = workers_of(gpus((1, 1), 4))
    with pytest.raises(
        InputError,
        match=rf"release.forget: {together} training worker\(s\) on one machine need about "
        rf"{together * 31} GiB of its memory, here has {has} GiB in one; expected less: ",
    ):
        require_host(nodes, four, {"release.forget": 31.0}, "here")
    require_host(nodes, four, {"release.forget": 29.0})
    require_host([Node(gpus=8)], four, {"release.forget": 1e6})  # nobody has told
    require_host([Node(cpus=8, gib=1), Node(gpus=4, gib=200)], four, {"release.forget": 31.0})
