"""The pool: every request answered once, in order, by its own model, whatever dies on the way."""

import asyncio
from collections import Counter

import numpy as np
import pytest

from rnr_dist.generate.pool import EngineDiedError, Pool
from rnr_dist.generate.requests import Generate, ReadLikelihood, Response, batches
from rnr_dist.types import Adapter, SamplingSettings
from tests.unit.pool_fakes import (
    BASE,
    ONE,
    TWO,
    FakeGenerator,
    answers_of,
    requests,
    serve,
)

pytestmark = pytest.mark.usefixtures("restarts_are_polled_quickly")


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
