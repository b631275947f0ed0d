"""What is asked of an endpoint and what comes back: plain data, no vLLM, no Ray.

Invariant: token ids go in and come out where both sides share a vocabulary, since decoding and
encoding again is not the identity; text and messages are encoded once, by the endpoint's tokenizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rnr_dist.data.encoding import encoded
from rnr_dist.errors import InputError
from rnr_dist.types import Message, SamplingSettings


@dataclass(frozen=True)
class Generate:
    """Continue a prompt, which is exactly one of four things.

    token_ids; text, encoded as one that begins (`data.encoding`); messages, written by the
    model's chat template up to where the assistant's turn begins; embeddings (tokens x hidden,
    fp32) as the model's embedding layer gives them. Raises ValueError for none or several of them.
    """

    sampling: SamplingSettings
    token_ids: tuple[int, ...] | None = None
    embeddings: np.ndarray | None = None
    text: str | None = None
    messages: tuple[Message, ...] | None = None

    def __post_init__(self) -> None:
        prompts = (self.token_ids, self.embeddings, self.text, self.messages)
        given = sum(prompt is not None for prompt in prompts)
        if given != 1:
            raise ValueError(
                f"a request to generate has {given} prompts; expected exactly one of token_ids, "
                "embeddings, text and messages"
            )

    @property
    def sequences(self) -> int:
        return self.sampling.n


@dataclass(frozen=True)
class ReadLikelihood:
    """Log-likelihood of every token from position `start` on, given those before it, and whether it
    is the arg max.

    Of a text's token ids, or, where `text` is given instead, of the tokens that the endpoint makes
    of it. Raises ValueError for both.
    """

    token_ids: tuple[int, ...] = ()
    start: int = 1
    text: str | None = None

    def __post_init__(self) -> None:
        if self.token_ids and self.text is not None:
            raise ValueError("a likelihood is read of either token_ids or text; found both")

    @property
    def sequences(self) -> int:
        # A prompt token costs about a tenth of a decoded one; this keeps batches alike in time.
        return max(1, len(self.token_ids) // 64)


Request = Generate | ReadLikelihood


@dataclass(frozen=True)
class Continuation:
    """One generated text. `finish_reason` is `stop` (end token or stop string) or `length`.

    `text` ends before the stop string; `token_ids` hold it, and are empty where an endpoint gives
    text alone.
    """

    token_ids: tuple[int, ...]
    text: str
    finish_reason: str


@dataclass(frozen=True)
class Response:
    """The answer to one request, from the model that `model` (a ModelRef digest) names."""

    model: str
    continuations: tuple[Continuation, ...] = ()
    log_likelihoods: tuple[float, ...] = ()
    arg_max: tuple[bool, ...] = ()


def prompt_ids(request: Request, tokenizer: Any) -> tuple[int, ...]:
    """The tokens that a model reads for a request without embeddings.

    Raises InputError where messages meet a tokenizer that has no chat template.
    """
    if request.text is not None:
        return encoded(tokenizer, request.text)
    if isinstance(request, ReadLikelihood) or request.messages is None:
        return tuple(request.token_ids or ())
    if not tokenizer.chat_template:
        raise InputError(
            f"messages: found no chat template beside the tokenizer of {tokenizer.name_or_path}; "
            "expected a model with one, or a prompt of text"
        )
    conversation = [{"role": one.role, "content": one.content} for one in request.messages]
    return tuple(
        tokenizer.apply_chat_template(conversation, add_generation_prompt=True, return_dict=False)
    )


def before_stop(text: str, stop: Sequence[str]) -> str:
    """`text` up to where the first of the stop strings begins; all of it where none occurs."""
    found = [place for place in map(text.find, stop) if place >= 0]
    return text[: min(found)] if found else text


def batches(requests: list[Request], size: int) -> list[list[int]]:
    """Positions of `requests` cut into runs of about `size` sequences."""
    runs: list[list[int]] = [[]]
    held = 0
    for position, request in enumerate(requests):
        if held and held + request.sequences > size:
            runs.append([])
            held = 0
        runs[-1].append(position)
        held += request.sequences
    return [run for run in runs if run]
