"""A model behind an OpenAI-compatible server as an endpoint: a judge, or a model to look at.

In: text or messages. Out: continuations, and likelihoods of text where the server gives them.
Invariant: so many requests are under way at once, each is repeated a bounded number of times, and
what the server cannot or will not answer is one InputError that names it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import asdict
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
from rnr_dist.run.server import Server, asking, client_of, unusable
from rnr_dist.types import ModelRef, digest


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
        self._client = client_of(server)
        self.server = server
        self.model = ModelRef(server.model, digest([server.url, server.model]))
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
        with asking(self.server):
            if isinstance(request, ReadLikelihood):
                return self._likelihood(request)
            return self._continuations(request)

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
                raise unusable(self.server, "a choice without a text")
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
            raise unusable(self.server, f"{found} choices where {count} were asked for")
        return choices
