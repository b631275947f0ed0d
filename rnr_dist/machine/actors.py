"""Actors that only hold a model: what died with their process or node is asked once more.

In: a call of an actor. Out: its answer. Invariant: an actor that Ray starts anew elsewhere is
waited for, but not for ever; bad input that the actor met is the sentence that it raised.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, GetTimeoutError, RayTaskError

from rnr_dist.errors import InputError, told_in

# Of such an actor. Calls are repeated here: Ray itself would wait without end for a place.
KEPT = {"num_cpus": 0, "max_restarts": 3}
START_SECONDS = 1800.0  # for a first place, and for a model that comes over the network
WAIT_SECONDS = 300.0  # for a replacement
POLL_SECONDS = 1.0


def started(first: Any, what: str) -> Any:
    """The first answer of a new actor, from its object reference.

    Raises InputError, which begins with `what`, where Ray has found no place for it.
    """
    try:
        return ray.get(first, timeout=START_SECONDS)
    except GetTimeoutError:
        raise InputError(
            f"{what}: did not start within {START_SECONDS / 60:.0f} min; expected a machine that "
            "has room for it (`ray status` says what is taken)"
        ) from None
    except RayTaskError as error:
        raise told_in(error, InputError) or error from None


def ask(call: Callable[[], Any]) -> Any:
    """What the object reference of `call()` holds; `call()` again while its actor is away.

    Raises Ray's ActorDiedError when the actor is gone for good, its ActorUnavailableError when it
    has been away for `WAIT_SECONDS`.
    """
    patience = _Patience()
    while True:
        try:
            return ray.get(call())
        except ActorUnavailableError as error:
            time.sleep(patience.left(error))
        except RayTaskError as error:
            raise told_in(error, InputError) or error from None


async def answer(call: Callable[[], Any]) -> Any:
    """`ask`, awaited in an event loop."""
    patience = _Patience()
    while True:
        try:
            return await call()
        except ActorUnavailableError as error:
            await asyncio.sleep(patience.left(error))
        except RayTaskError as error:
            raise told_in(error, InputError) or error from None


class _Patience:
    """How long an actor may be away, counted from when that was seen first."""

    def __init__(self) -> None:
        self._until: float | None = None

    def left(self, error: ActorUnavailableError) -> float:
        """Seconds until the next try. Raises `error` when there is none."""
        now = time.monotonic()
        self._until = self._until or now + WAIT_SECONDS
        if now > self._until:
            raise error
        return POLL_SECONDS
