"""Who answers requests for a model: the one interface that everything which needs text is given.

In: a model reference and requests. Out: one response a request, in their order. Invariant: every
response is of the model that was asked for; an endpoint that cannot serve it raises instead.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Protocol, runtime_checkable

from rnr_dist.generate.requests import Request, Response
from rnr_dist.types import ModelRef


@runtime_checkable
class Endpoint(Protocol):
    """The pool of engines (`cluster_pool.PoolHandle`, whichever backend they run on) and a model
    behind an API (`http_endpoint.HttpEndpoint`)."""

    def submit(self, model: ModelRef, requests: Sequence[Request]) -> Awaitable[list[Response]]:
        """Begin to answer. Awaiting what it returns gives the responses, in request order."""
        ...

    def run(
        self, model: ModelRef, requests: Sequence[Request], describe: str = ""
    ) -> list[Response]:
        """The responses in request order, waited for; `describe` names a progress bar."""
        ...
