"""The pool: every request answered once, in order, by its own model, whatever dies on the way."""

import asyncio
from collections import Counter

import numpy as np
import pytest

from rnr_dist.generate import pool as pool_module
from rnr_dist.generate.pool import MAX_ATTEMPTS, EngineDiedError, Pool
from rnr_dist.generate.requests import Generate, ReadLikelihood, Response, batches
from rnr_dist.types import Adapter, ModelRef, SamplingSettings

BASE = ModelRef("/base", "base")
ONE = BASE.plus(-1.0, Adapter("/a", "a", "base", "forget"))
TWO = BASE.plus(0.5, Adapter("/b", "b", "base", "retain"))
DEADLINE = 10.0


def requests(count, first=0, n=1):
    return [Generate(SamplingSettings(n=n), (first + i,)) for i in range(count)]


class FakeGenerator:
    """A GeneratorLink that notes what it does; `log` is shared, so that order can be seen.

    `dies_at`: numbers of the runs under which the engine dies; it is back when asked again.
    `gone_after`: so many runs, then it is gone for good.
    """

    def __init__(self, dies_at=(), gone_after=None, restarts_in=0, fails=lambda request: False):
        self.loaded, self.alive = BASE.digest, True
        self.dies_at, self.gone_after, self.fails = set(dies_at), gone_after, fails
        self.restarts_in, self.asked_while_dead = restarts_in, 0
        self.runs, self.under_way, self.most_under_way = 0, 0, 0
        self.loads, self.answered = [], Counter()

    @property
    def gone(self):
        return self.gone_after is not None and self.runs >= self.gone_after

    async def ready(self):
        await asyncio.sleep(0)
        if self.gone:
            raise RuntimeError("gone for good")
        if not self.alive:
            self.asked_while_dead += 1
            if self.asked_while_dead <= self.restarts_in:
                raise EngineDiedError("restarting")
            self.alive, self.loaded = True, BASE.digest  # a new engine holds the base
        return [self.loaded]

    async def load(self, model):
        assert self.under_way == 0, "weights exchanged under running requests"
        await asyncio.sleep(0)
        if self.gone or not self.alive:
            raise EngineDiedError("dead")
        self.loaded = ""
        await asyncio.sleep(0.001)
        assert self.under_way == 0
        self.loaded = model.digest
        self.loads.append(model.digest)
        return [self.loaded]

    async def run(self, requests, model):
        assert isinstance(model, str)
        if self.gone or not self.alive:
            raise EngineDiedError("dead")
        if model != self.loaded:
            raise RuntimeError(f"asked for model {model}, loaded is {self.loaded}")
        self.runs += 1
        number = self.runs
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            await asyncio.sleep(0.002)
            if number in self.dies_at:
                self.alive = False
            if not self.alive:  # takes everything that is under way with it
                raise EngineDiedError("died")
            if any(self.fails(request) for request in requests):
                raise ValueError("cannot be answered")
            self.answered.update(request.token_ids[0] for request in requests)
            return [self.respond(request) for request in requests]
        finally:
            self.under_way -= 1

    def respond(self, request):
        return Response(self.loaded, log_likelihoods=(float(request.token_ids[0]),))


@pytest.fixture(autouse=True)
def restarts_are_polled_quickly(monkeypatch):
    monkeypatch.setattr(pool_module, "RESTART_POLL_SECONDS", 0.001)


def serve(links, work, batch=3, in_flight=2, beside=False):
    """Run `work(pool)` against a started pool."""

    async def scenario():
        pool = Pool(links, batch, in_flight, beside)
        try:
            await asyncio.wait_for(pool.start(), DEADLINE)
            return await asyncio.wait_for(work(pool), DEADLINE)
        finally:
            await pool.close()

    return asyncio.run(scenario())


def answers_of(model, asked):
    return [Response(model.digest, log_likelihoods=(float(r.token_ids[0]),)) for r in asked]


# Batches


def test_batches_hold_every_position_once_and_about_size_sequences():
    asked = [*requests(5, n=2), *requests(1, n=9), ReadLikelihood(tuple(range(200))), *requests(3)]
    runs = batches(asked, 4)
    assert [position for run in runs for position in run] == list(range(len(asked)))
    for run in runs:
        assert len(run) == 1 or sum(asked[position].sequences for position in run) <= 4
    assert len(runs) == 6
    assert batches([], 4) == []


# Answers


@pytest.mark.parametrize("engines", [1, 2, 3])
def test_answers_come_in_request_order_and_each_request_is_asked_once(engines):
    links = [FakeGenerator() for _ in range(engines)]
    asked = requests(50)
    assert serve(links, lambda pool: pool.submit(BASE, asked)) == answers_of(BASE, asked)
    assert sum((link.answered for link in links), Counter()) == Counter(range(50))
    assert all(link.answered for link in links)
    assert not any(link.loads for link in links)  # they came up with the base


def test_nothing_asked_is_nothing_answered():
    assert serve([FakeGenerator()], lambda pool: pool.submit(BASE, [])) == []


def test_two_models_spread_over_two_engines_and_weights_move_rarely():
    links = [FakeGenerator(), FakeGenerator()]
    asked = requests(60)

    async def work(pool):
        return await asyncio.gather(pool.submit(ONE, asked), pool.submit(TWO, asked))

    one, two = serve(links, work)
    assert (one, two) == (answers_of(ONE, asked), answers_of(TWO, asked))
    assert {link.loads[0] for link in links} == {ONE.digest, TWO.digest}
    assert all(len(link.loads) <= 2 for link in links)


def test_many_jobs_of_many_models_at_once():
    links = [FakeGenerator(), FakeGenerator()]
    models = [BASE, ONE, TWO, BASE, ONE.plus(0.1, TWO.terms[0].adapter)]
    asked = [requests(7 + number, first=100 * number) for number in range(len(models))]

    async def work(pool):
        jobs = zip(models, asked, strict=True)
        return await asyncio.gather(*(pool.submit(model, own) for model, own in jobs))

    for model, own, answers in zip(models, asked, serve(links, work), strict=True):
        assert answers == answers_of(model, own)


def test_jobs_of_soft_prompts_can_stand_side_by_side():
    # Arrays have no truth value: jobs that were compared by content would raise here.
    delays = [0.02, 0.01, 0.0]  # the last job ends first

    class Soft(FakeGenerator):
        async def run(self, requests, model):
            await asyncio.sleep(float(requests[0].embeddings[0, 0]))
            return [Response(model) for _ in requests]

    async def work(pool):
        prompts = [np.full((2, 4), delay, np.float32) for delay in delays]
        asked = [[Generate(SamplingSettings(), embeddings=prompt)] for prompt in prompts]
        return await asyncio.gather(*(pool.submit(BASE, own) for own in asked))

    assert serve([Soft(), Soft(), Soft()], work) == [[Response(BASE.digest)]] * 3


def test_the_answer_of_another_model_is_never_handed_on():
    class Confused(FakeGenerator):
        def respond(self, request):
            confused = self.runs == 1 and request.token_ids[0] == 2
            return Response("another" if confused else self.loaded)

    link, heard = Confused(), []
    asked = requests(6)
    answers = serve([link], lambda pool: pool.submit(ONE, asked, heard.append), in_flight=1)
    assert [answer.model for answer in answers] == [ONE.digest] * 6
    assert sum(heard) == 6


def test_an_answer_too_few_is_asked_for_again():
    class Short(FakeGenerator):
        async def run(self, requests, model):
            answers = await super().run(requests, model)
            return answers[:-1] if self.runs == 1 else answers

    asked = requests(6)
    assert serve([Short()], lambda pool: pool.submit(BASE, asked)) == answers_of(BASE, asked)


def test_progress_adds_up_to_the_number_of_requests():
    heard = []
    links = [FakeGenerator(dies_at=[2]), FakeGenerator()]
    serve(links, lambda pool: pool.submit(ONE, requests(40), heard.append))
    assert sum(heard) == 40
    assert len(heard) > 5


# Limits


@pytest.mark.parametrize("in_flight", [1, 2, 5])
def test_an_engine_holds_no_more_batches_than_it_may(in_flight):
    links = [FakeGenerator(), FakeGenerator()]
    serve(links, lambda pool: pool.submit(BASE, requests(90)), in_flight=in_flight)
    assert [link.most_under_way for link in links] == [in_flight] * 2


# Failures


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


def test_a_pool_whose_generators_never_come_up_does_not_start():
    with pytest.raises(RuntimeError, match="gone for good"):
        serve([FakeGenerator(gone_after=0)] * 2, lambda pool: pool.submit(BASE, requests(1)))


def test_one_generator_that_never_comes_up_is_done_without():
    links = [FakeGenerator(gone_after=0), FakeGenerator()]
    assert serve(links, lambda pool: pool.submit(BASE, requests(9))) == answers_of(
        BASE, requests(9)
    )


class Shelf(FakeGenerator):
    """Holds the base and the two models that were loaded last."""

    def __init__(self, **options):
        super().__init__(**options)
        self.shelf, self.busy, self.loaded_under_way = [], 0, 0

    async def ready(self):
        await super().ready()
        self.shelf = []
        return [BASE.digest]

    async def load(self, model):
        if not self.alive:
            raise EngineDiedError("dead")
        await asyncio.sleep(0.001)
        self.loaded_under_way += self.busy > 0
        self.loads.append(model.digest)
        self.shelf = [*self.shelf, model.digest][-2:]
        return [BASE.digest, *self.shelf]

    async def run(self, requests, model):
        if self.alive and model not in [BASE.digest, *self.shelf]:
            raise RuntimeError(f"asked for model {model}, held: {self.shelf}")
        self.busy += 1
        await asyncio.sleep(0.003 * (requests[0].token_ids[0] % 2))  # some take longer
        try:
            self.loaded = model  # what the parent looks at
            answers = await super().run(requests, model)
        finally:
            self.busy -= 1
        return [Response(model, log_likelihoods=answer.log_likelihoods) for answer in answers]


@pytest.mark.parametrize("dies_at", [(), (2, 5)])
def test_models_are_loaded_beside_those_under_way(dies_at):
    third = BASE.plus(2.0, Adapter("/c", "c", "base", "forget"))
    models = [BASE, ONE, TWO, third]
    link = Shelf(dies_at=dies_at)

    async def work(pool):
        jobs = [pool.submit(model, requests(12)) for model in models]
        return await asyncio.gather(*jobs)

    found = serve([link], work, beside=True)
    assert found == [answers_of(model, requests(12)) for model in models]
    assert BASE.digest not in link.loads
    assert link.loaded_under_way
    if not dies_at:
        assert len(link.loads) == 3


def test_closing_ends_what_waits():
    class Slow(FakeGenerator):
        async def run(self, requests, model):
            await asyncio.sleep(60)

    async def scenario():
        pool = Pool([Slow()], 3, 2)
        await pool.start()
        job = asyncio.create_task(pool.submit(BASE, requests(30)))
        await asyncio.sleep(0.01)
        await pool.close()
        with pytest.raises(RuntimeError, match="closed"):
            await asyncio.wait_for(job, 1)

    asyncio.run(scenario())
