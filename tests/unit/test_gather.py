"""One actor, many callers: fewer calls, the right rows, and the right one to blame."""

import asyncio
from itertools import chain

import numpy as np
import pytest

from rnr_dist.score import batching as module
from rnr_dist.score.batching import Gate, Gather


class Actor:
    """Squares, after a moment; keeps what it was asked."""

    def __init__(self, bad: int | None = None):
        self.asked: list[list[int]] = []
        self.bad = bad

    async def ask(self, items):
        self.asked.append(items)
        await asyncio.sleep(0.01)
        if self.bad in items:
            raise ValueError(f"{self.bad} has no square")
        return np.array([[item, item**2] for item in items])


def together(actor, *lists):
    async def main():
        gather = Gather(actor.ask)
        return await asyncio.gather(*(gather(items) for items in lists), return_exceptions=True)

    return asyncio.run(main())


def test_what_arrives_while_the_actor_works_is_asked_in_one_call():
    actor = Actor()
    first, second, third = together(actor, [1], [2, 3], [4])
    assert actor.asked[0][0] == 1 and len(actor.asked) <= 2
    assert sorted(chain(*actor.asked)) == [1, 2, 3, 4]
    assert [rows[:, 1].tolist() for rows in (first, second, third)] == [[1], [4, 9], [16]]


def test_one_call_holds_no_more_than_its_limit(monkeypatch):
    monkeypatch.setattr(module, "TOGETHER", 4)
    actor = Actor()
    answers = together(actor, *([number, number] for number in range(9)), [1] * 7)
    assert [len(rows) for rows in answers] == [2] * 9 + [7]
    assert max(len(items) for items in actor.asked[:-1]) <= 4 and len(actor.asked[-1]) == 7


def test_only_the_caller_to_blame_gets_the_error():
    actor = Actor(bad=3)
    first, second, third = together(actor, [1, 2], [3], [4])
    assert first[:, 1].tolist() == [1, 4] and third[:, 1].tolist() == [16]
    assert isinstance(second, ValueError) and "3 has no square" in str(second)


def test_rows_of_a_wrong_count_are_not_handed_to_the_wrong_caller():
    async def short(items):
        return np.arange(len(items))[:-1] if 3 in items else np.array(items)

    async def main():
        gather = Gather(short)
        return await asyncio.gather(*(gather(items) for items in ([1], [2, 3], [4])))

    first, second, third = asyncio.run(main())
    assert first.tolist() == [1] and third.tolist() == [4]
    assert len(second) == 1  # its own caller says what is wrong with that


def test_a_caller_that_gave_up_does_not_keep_the_others():
    actor = Actor()

    async def main():
        gather = Gather(actor.ask)
        first = asyncio.create_task(gather([1]))
        lost = asyncio.create_task(gather([2]))
        last = asyncio.create_task(gather([3]))
        await asyncio.sleep(0)
        lost.cancel()
        return await first, await last

    first, last = asyncio.run(main())
    assert first[0, 1] == 1 and last[0, 1] == 9


@pytest.mark.parametrize("turns", [1, 3])
def test_it_works_again_after_it_fell_idle(turns):
    actor = Actor()

    async def main():
        gather = Gather(actor.ask)
        return [(await gather([turn]))[0, 1] for turn in range(turns)]

    assert asyncio.run(main()) == [turn**2 for turn in range(turns)]


class Simulated(asyncio.SelectorEventLoop):
    """Its clock jumps to what is due next, so that no busy machine makes anybody late."""

    def __init__(self):
        super().__init__()
        self.now, select = 0.0, self._selector.select

        def jump(timeout):
            self.now += timeout or 0.0
            return select(0)

        self._selector.select = jump

    def time(self):
        return self.now


def passing(enough, *arrivals):
    """Seconds at which callers who arrive at these seconds go through a gate."""

    async def caller(gate, second):
        await asyncio.sleep(second)
        await gate.passed(enough)
        return round(asyncio.get_running_loop().time(), 1)

    async def main():
        gate = Gate()
        return await asyncio.gather(*(caller(gate, second) for second in arrivals))

    with asyncio.Runner(loop_factory=Simulated) as runner:
        return runner.run(main())


def test_a_gate_opens_when_enough_wait_and_for_fewer_after_a_while(monkeypatch):
    monkeypatch.setattr(module, "LINGER", 0.6)
    assert passing(2, 0, 0.2, 0.4) == [0.2, 0.2, 1.0]


@pytest.mark.parametrize("enough", [0, 1])
def test_a_gate_for_one_never_waits(monkeypatch, enough):
    monkeypatch.setattr(module, "LINGER", 60)
    assert passing(enough, 0, 0.2) == [0.0, 0.2]


def test_a_caller_that_gave_up_at_a_gate_leaves_the_others_there(monkeypatch):
    monkeypatch.setattr(module, "LINGER", 0.2)

    async def main():
        gate = Gate()
        lost, left = (asyncio.create_task(gate.passed(3)) for _ in range(2))
        await asyncio.sleep(0)
        lost.cancel()
        await left
        return lost.cancelled()

    assert asyncio.run(main())


def test_who_need_not_wait_opens_a_gate_for_those_who_do(monkeypatch):
    monkeypatch.setattr(module, "LINGER", 60)

    async def main():
        gate = Gate()
        first = asyncio.create_task(gate.passed(3))
        await asyncio.sleep(0)
        await asyncio.wait_for(asyncio.gather(first, gate.passed(1)), 5)

    asyncio.run(main())
