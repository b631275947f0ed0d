"""The pool when engines die, restart, or fail: nothing is lost, nothing waits for ever."""

import asyncio
from collections import Counter

import pytest

from rnr_dist.errors import InputError, LostError
from rnr_dist.generate import pool as pool_module
from rnr_dist.generate.pool import MAX_ATTEMPTS, EngineDiedError
from tests.unit.pool_fakes import (
    BASE,
    ONE,
    FakeGenerator,
    answers_of,
    requests,
    serve,
)

pytestmark = pytest.mark.usefixtures("restarts_are_polled_quickly")


def test_what_a_dead_engine_held_is_issued_again():
    links = [FakeGenerator(dies_at=[2], restarts_in=3), FakeGenerator()]
    asked = requests(60)
    assert serve(links, lambda pool: pool.submit(ONE, asked)) == answers_of(ONE, asked)
    assert links[0].asked_while_dead == 4
    answered = sum((link.answered for link in links), Counter())
    assert answered == Counter(range(60))


def test_a_revived_engine_gets_its_model_again():
    link = FakeGenerator(dies_at=[2], restarts_in=1)
    asked = requests(30)
    assert serve([link], lambda pool: pool.submit(ONE, asked)) == answers_of(ONE, asked)
    assert link.loads == [ONE.digest, ONE.digest]


def test_an_engine_that_restarted_unseen_is_asked_what_it_holds():
    link = FakeGenerator()
    asked = requests(9)

    async def work(pool):
        await pool.submit(ONE, asked)
        link.loaded = BASE.digest  # died while idle; Ray has started it again
        return await pool.submit(ONE, asked)

    assert serve([link], work) == answers_of(ONE, asked)


def test_deaths_between_batches_are_not_held_against_a_batch():
    class DiesWhileLoading(FakeGenerator):
        deaths = 0

        async def load(self, model):
            if self.deaths < MAX_ATTEMPTS:
                self.deaths += 1
                self.alive = False
            return await super().load(model)

    asked = requests(4)
    assert serve([DiesWhileLoading()], lambda pool: pool.submit(ONE, asked)) == answers_of(
        ONE, asked
    )


def test_a_batch_that_kills_every_engine_fails_its_job_alone():
    class Poisoned(FakeGenerator):
        async def run(self, requests, model):
            if any(request.token_ids[0] == 13 for request in requests):
                self.alive = False
            return await super().run(requests, model)

    links = [Poisoned(), Poisoned()]

    async def work(pool):
        jobs = [pool.submit(BASE, requests(20)), pool.submit(ONE, requests(20, first=100))]
        return await asyncio.gather(*jobs, return_exceptions=True)

    poisoned, other = serve(links, work, in_flight=1)
    assert isinstance(poisoned, EngineDiedError)
    assert other == answers_of(ONE, requests(20, first=100))


def test_a_batch_that_always_fails_raises_its_error_after_the_attempts():
    link = FakeGenerator(fails=lambda request: request.token_ids[0] == 4)

    async def work(pool):
        with pytest.raises(ValueError, match="cannot be answered"):
            await pool.submit(BASE, requests(6))
        return await pool.submit(BASE, requests(3, first=10))

    assert serve([link], work, in_flight=1) == answers_of(BASE, requests(3, first=10))
    assert link.answered[0] == 1  # the good batch was not asked again
    assert link.runs == 1 + MAX_ATTEMPTS + 1


def test_weights_that_cannot_be_loaded_fail_the_job():
    class Refusing(FakeGenerator):
        async def load(self, model):
            raise OSError("no such adapter")

    async def work(pool):
        with pytest.raises(OSError, match="no such adapter"):
            await pool.submit(ONE, requests(6))
        return await pool.submit(BASE, requests(6))

    assert serve([Refusing()], work) == answers_of(BASE, requests(6))


@pytest.mark.parametrize("model", [BASE, ONE])
def test_a_generator_that_is_gone_leaves_its_work_to_the_other(model):
    links = [FakeGenerator(gone_after=2), FakeGenerator()]
    asked = requests(60)
    assert serve(links, lambda pool: pool.submit(model, asked)) == answers_of(model, asked)


def test_when_all_are_gone_the_job_fails_and_so_does_the_next():
    links = [FakeGenerator(gone_after=2), FakeGenerator(gone_after=3)]

    async def work(pool):
        with pytest.raises(RuntimeError, match="gone for good"):
            await pool.submit(BASE, requests(60))
        with pytest.raises(EngineDiedError, match="no generator is left"):
            await pool.submit(BASE, requests(1))

    serve(links, work)


def test_a_generator_that_is_lost_is_told_with_its_reason_and_how_many_are_left():
    links = [FakeGenerator(), FakeGenerator(gone_after=0), FakeGenerator(gone_after=0)]

    async def work(pool):
        return [await pool.next_change(), await pool.next_change()]

    told = "a generator is gone for good (RuntimeError: gone for good); 1 of 3 are left"
    assert serve(links, work) == [told, told]


def test_a_generator_that_stays_away_is_not_waited_for_without_end(monkeypatch):
    monkeypatch.setattr(pool_module, "START_SECONDS", 0.05)
    links = [FakeGenerator(dies_at=[1], restarts_in=10**9), FakeGenerator()]
    asked = requests(30)

    async def work(pool):
        answers = await pool.submit(BASE, asked)
        return answers, await pool.next_change()

    answers, loss = serve(links, work)
    assert answers == answers_of(BASE, asked)
    assert "it has not answered" in loss and "1 of 2 are left" in loss


def test_a_generator_that_finds_no_place_is_not_waited_for_without_end(monkeypatch):
    class Pending(FakeGenerator):
        async def ready(self):
            await asyncio.sleep(10**6)

    monkeypatch.setattr(pool_module, "START_SECONDS", 0.05)
    with pytest.raises(LostError, match=r"has not answered for .* 0 of 1 are left"):
        serve([Pending()], lambda pool: pool.submit(BASE, requests(1)))


def test_bad_input_of_the_last_generator_stays_its_sentence():
    class Refused(FakeGenerator):
        async def ready(self):
            raise InputError("engines.max_model_len: found 9, expected at most 8")

    with pytest.raises(InputError, match=r"^engines\.max_model_len: found 9"):
        serve([Refused(), Refused()], lambda pool: pool.submit(BASE, requests(1)))


def test_a_pool_whose_generators_never_come_up_does_not_start():
    with pytest.raises(RuntimeError, match="gone for good"):
        serve([FakeGenerator(gone_after=0)] * 2, lambda pool: pool.submit(BASE, requests(1)))


def test_one_generator_that_never_comes_up_is_done_without():
    links = [FakeGenerator(gone_after=0), FakeGenerator()]
    assert serve(links, lambda pool: pool.submit(BASE, requests(9))) == answers_of(
        BASE, requests(9)
    )
