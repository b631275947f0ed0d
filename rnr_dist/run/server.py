"""A model behind an OpenAI-compatible server: who it is, its client, and how its failures read.

In: a `Server`. Out: a client; whatever that raises as one InputError that names the server.
Invariant: the key comes from the environment and stands in no error.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rnr_dist.config.secrets import secret_of
from rnr_dist.errors import InputError


@dataclass(frozen=True)
class Server:
    """Where a model is served. url: up to and with its version, as in http://127.0.0.1:8000/v1.

    model: what the server calls it. key_variable: the environment variable that holds the key; ""
    for a server that asks for none. timeout_seconds: of one request. retries: after a failed
    connection, a timeout or an answer of 408, 409, 429 or 5xx; the waits between them grow from
    half a second to eight, and a Retry-After is kept to. at_once: requests under way together.
    """

    url: str
    model: str
    key_variable: str = ""
    timeout_seconds: float = 120.0
    retries: int = 4
    at_once: int = 8


def client_of(server: Server) -> Any:
    """A client of `openai`. Raises InputError where the key's environment variable is not set."""
    from openai import OpenAI

    return OpenAI(
        base_url=server.url,
        api_key=secret_of(server.key_variable, server.url) if server.key_variable else "none",
        timeout=server.timeout_seconds,
        max_retries=server.retries,
    )


@contextlib.contextmanager
def asking(server: Server) -> Iterator[None]:
    """Raises InputError for whatever the client raises within the block."""
    import openai

    url, model = server.url, server.model
    try:
        yield
    except openai.APITimeoutError as error:
        raise InputError(
            f"{url}: found no answer within {server.timeout_seconds:g} s in "
            f"{server.retries + 1} tries; expected one"
        ) from error
    except openai.APIConnectionError as error:
        raise InputError(
            f"{url}: found no server ({error.__cause__ or error}); expected one that is "
            "compatible with OpenAI's"
        ) from error
    except openai.APIStatusError as error:
        said = " ".join(error.message.split())[:200]
        raise InputError(
            f"{url}: answered {error.status_code} to a request for {model} ({said}); expected "
            f"{_expected(error.status_code, server)}"
        ) from error
    except (openai.OpenAIError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise unusable(server, f"{type(error).__name__}: {error}") from error


def unusable(server: Server, found: str) -> InputError:
    """Of an answer that cannot be read."""
    return InputError(
        f"{server.url}: found an answer that cannot be read ({' '.join(found.split())}); "
        "expected one as of OpenAI's API"
    )


def _expected(status: int, server: Server) -> str:
    """What would have been right, by the status of an answer."""
    if status in (401, 403):
        where = server.key_variable or "Server.key_variable"
        return f"the key in {where} to be valid for it"
    if status == 404:
        return "a model that it serves, and a url up to and with its version, as in .../v1"
    if status == 429 or status >= 500:
        return f"an answer within {server.retries + 1} tries"
    return "a request that it takes"
