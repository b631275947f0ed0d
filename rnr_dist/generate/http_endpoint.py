"""A model behind an OpenAI-compatible server as an endpoint: a judge, or a model to look at.

In: text or messages. Out: continuations, and likelihoods of text where the server gives them.
Invariant: so many requests are under way at once, each is repeated a bounded number of times, and
what the server cannot or will not answer is one InputError that names it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from typing import Any

from rnr_dist.errors import InputError
from rnr_dist.generate.requests import (
    Continuation,
    Generate,
    ReadLikelihood,
    Request,
    Response,
    before_stop,
)
from rnr_dist.run.progress import progress_bar
from rnr_dist.types import ModelRef, digest


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


class Answers:
    """What `submit` returns: `await` it, or ask for its `result`."""

    def __init__(self, parts: Sequence[Future[Response]]):
        self.parts = list(parts)

    def __await__(self) -> Generator[Any, None, list[Response]]:
        return asyncio.gather(*map(asyncio.wrap_future, self.parts)).__await__()

    def result(self) -> list[Response]:
        """The responses in request order, waited for. The first error gives up the rest."""
        try:
            return [part.result() for part in self.parts]
        finally:
            for part in self.parts:
                part.cancel()


class HttpEndpoint:
    """An `Endpoint` of one model, `model`, which takes no part in training: it has no weights here.

    Raises InputError where the key's environment variable is not set. Close it, or use it as a
    context manager.
    """

    def __init__(self, server: Server):
        from openai import OpenAI

        key = os.environ.get(server.key_variable, "") if server.key_variable else "none"
        if not key:
            raise InputError(
                f"{server.url}: found no key in the environment variable {server.key_variable}; "
                "expected the server's"
            )
        self.server = server
        self.model = ModelRef(server.model, digest([server.url, server.model]))
        self._client = OpenAI(
            base_url=server.url,
            api_key=key,
            timeout=server.timeout_seconds,
            max_retries=server.retries,
        )
        self._workers = ThreadPoolExecutor(server.at_once)

    def __enter__(self) -> HttpEndpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give up what is not under way and wait for the rest."""
        self._workers.shutdown(cancel_futures=True)
        self._client.close()

    def submit(self, model: ModelRef, requests: Sequence[Request]) -> Answers:
        """Raises InputError for another model, and for a request that is not of text or messages:
        the server's tokens and embeddings are not known here."""
        if model.digest != self.model.digest:
            raise InputError(
                f"{self.server.url}: asked for {model.checkpoint}; expected {self.server.model}, "
                "which it serves"
            )
        for request in requests:
            written = isinstance(request, Generate) and request.messages is not None
            if request.text is None and not written:
                raise InputError(
                    f"{self.server.url}: asked with token ids or embeddings; expected text or "
                    "messages, since its tokens are its own"
                )
        return Answers([self._workers.submit(self._answer, request) for request in requests])

    def run(
        self, model: ModelRef, requests: Sequence[Request], describe: str = ""
    ) -> list[Response]:
        """The responses in request order; `describe` shows a progress bar of that name."""
        answers = self.submit(model, requests)
        if describe:
            with progress_bar(describe, len(requests)) as advance_to:
                for done, part in enumerate(as_completed(answers.parts), 1):
                    if part.exception():
                        break
                    advance_to(done)
        return answers.result()

    def _answer(self, request: Request) -> Response:
        """Raises InputError for whatever the client raises."""
        import openai

        url, model = self.server.url, self.server.model
        try:
            if isinstance(request, ReadLikelihood):
                return self._likelihood(request)
            return self._continuations(request)
        except openai.APITimeoutError as error:
            raise InputError(
                f"{url}: found no answer within {self.server.timeout_seconds:g} s in "
                f"{self.server.retries + 1} tries; expected one"
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
                f"{_expected(error.status_code, self.server)}"
            ) from error
        except (openai.OpenAIError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise self._unusable(f"{type(error).__name__}: {error}") from error

    def _continuations(self, request: Generate) -> Response:
        sampling = request.sampling
        settings: dict[str, Any] = {
            "model": self.server.model,
            "n": sampling.n,
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
        }
        if sampling.stop:
            settings["stop"] = list(sampling.stop)
        if request.messages is None:
            answer = self._client.completions.create(prompt=request.text or "", **settings)
        else:
            messages: list[Any] = [asdict(message) for message in request.messages]
            answer = self._client.chat.completions.create(messages=messages, **settings)
        said = []
        for choice in self._choices(answer, sampling.n):
            if request.messages is None:
                text = getattr(choice, "text", None)
            else:  # null where the model said nothing
                text = getattr(getattr(choice, "message", None), "content", 0)
                text = "" if text is None else text
            if not isinstance(text, str):
                raise self._unusable("a choice without a text")
            reason = str(getattr(choice, "finish_reason", None) or "")
            said.append(Continuation((), before_stop(text, sampling.stop), reason))
        return Response(self.model.digest, tuple(said))

    def _likelihood(self, request: ReadLikelihood) -> Response:
        """The prompt is echoed with the log p of its tokens; nothing is generated after it."""
        answer = self._client.completions.create(
            model=self.server.model,
            prompt=request.text or "",
            max_tokens=0,
            echo=True,
            logprobs=1,
            temperature=0.0,
        )
        [choice] = self._choices(answer, 1)
        told = getattr(choice, "logprobs", None)
        values = getattr(told, "token_logprobs", None) or []
        best = getattr(told, "top_logprobs", None) or []
        echoed = getattr(choice, "text", None) or ""
        if (request.text or "") not in echoed or not values or len(best) < len(values):
            raise InputError(
                f"{self.server.url}: found no likelihoods of a prompt; expected a server whose "
                "completions take echo together with logprobs, as vLLM's do"
            )
        read = [
            (float(value), value >= max(top.values()))
            for value, top in list(zip(values, best, strict=False))[request.start :]
        ]
        return Response(
            self.model.digest, (), tuple(value for value, _ in read), tuple(top for _, top in read)
        )

    def _choices(self, answer: Any, count: int) -> list[Any]:
        choices = getattr(answer, "choices", None)
        if not isinstance(choices, list) or len(choices) != count:
            found = len(choices) if isinstance(choices, list) else "no"
            raise self._unusable(f"{found} choices where {count} were asked for")
        return choices

    def _unusable(self, found: str) -> InputError:
        return InputError(
            f"{self.server.url}: found an answer that cannot be read ({' '.join(found.split())}); "
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
