"""Generators that the pool meets in tests, and a pool run against them."""

import asyncio
from collections import Counter

from rnr_dist.generate.pool import EngineDiedError, Pool
from rnr_dist.generate.requests import Generate, Response
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
