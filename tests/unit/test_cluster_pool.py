"""What the pool makes of Ray's errors: a lost engine, or the error as the actor raised it."""

import asyncio

import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayTaskError

from rnr_dist.generate.cluster_pool import RayLink
from rnr_dist.generate.pool import EngineDiedError
from rnr_dist.types import ModelRef

BASE = ModelRef("/base", "base")


class Handle:
    """An actor handle whose every method raises `error`."""

    def __init__(self, error):
        self.error = error

    def __getattr__(self, method):
        return self

    async def remote(self, *arguments):
        raise self.error


@pytest.mark.parametrize("error", [ActorUnavailableError("away", None), ActorDiedError()])
def test_a_lost_actor_is_an_engine_that_died(error):
    link = RayLink(Handle(error))
    for call in (link.run([], "base"), link.load(BASE)):
        with pytest.raises(EngineDiedError):
            asyncio.run(call)


def test_only_a_restarting_actor_is_waited_for():
    with pytest.raises(EngineDiedError):
        asyncio.run(RayLink(Handle(ActorUnavailableError("away", None))).ready())
    with pytest.raises(ActorDiedError):
        asyncio.run(RayLink(Handle(ActorDiedError())).ready())


def test_an_error_within_the_actor_comes_as_it_was_raised():
    wrapped = RayTaskError("run", "the actor's traceback", ValueError("prompt too long"))
    with pytest.raises(ValueError, match="prompt too long") as caught:
        asyncio.run(RayLink(Handle(wrapped)).run([], "base"))
    assert type(caught.value) is ValueError
