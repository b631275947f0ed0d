"""Simulated time: lanes do one thing at a time, waiting is free, work is charged."""

import asyncio
import time

import pytest

from benchmarks.operate_parts.head import configured, contexts
from benchmarks.operate_parts.lanes import DRIVER, FREE, POOL, LaneLoop, asked, simulated


def work(seconds):
    """CPU of this thread."""
    began = time.thread_time()
    while time.thread_time() - began < seconds:
        pass


async def worked(seconds):
    work(seconds)
    return asyncio.get_running_loop().time()


def took(main, charges=()):
    loop = LaneLoop(dict(charges))

    async def timed():
        await main()
        return loop.time()

    return loop.run_until_complete(timed()), loop


def test_waiting_takes_simulated_time_alone():
    began = time.monotonic()

    async def main():
        await asyncio.gather(*(asyncio.sleep(1000) for _ in range(5)))

    seconds, _ = took(main)
    assert seconds == pytest.approx(1000) and time.monotonic() - began < 30


def test_a_lane_does_one_thing_at_a_time_and_lanes_work_side_by_side():
    async def one_lane():
        await asyncio.gather(*(asked(DRIVER, worked(0.05)) for _ in range(4)))

    async def two_lanes():
        await asyncio.gather(*(asked(lane, worked(0.05)) for lane in 2 * (DRIVER, POOL)))

    alone, loop = took(one_lane)
    assert alone == pytest.approx(0.2, rel=0.3)
    assert loop.worked[DRIVER] == pytest.approx(alone, rel=0.05)
    assert took(two_lanes)[0] == pytest.approx(0.1, rel=0.3)


def test_work_is_charged_by_its_lane_and_what_is_free_is_not():
    async def main():
        await asked(DRIVER, worked(0.05))
        await asked(FREE, worked(0.05))

    assert took(main, {DRIVER: 10})[0] == pytest.approx(0.5, rel=0.3)


def test_what_another_core_does_takes_its_time_and_nobody_elses():
    async def main():
        beside = asked(DRIVER, asyncio.to_thread(work, 0.2))
        await asyncio.sleep(0.01)
        assert await asked(DRIVER, worked(0.02)) < 0.05
        await beside

    seconds, loop = took(main)
    assert seconds == pytest.approx(0.2, rel=0.3) and loop.worked[DRIVER] < 0.1


def test_a_head_that_is_charged_more_leaves_less_of_the_optimum():
    config = configured(8, 60)
    quick = simulated(config, contexts(), {})
    slow = simulated(config, contexts(), {DRIVER: 60.0})
    assert 0.8 < quick["efficiency"] <= 1.001
    assert slow["efficiency"] < 0.8 * quick["efficiency"]
    assert slow["driver"] > 20 * quick["driver"]
