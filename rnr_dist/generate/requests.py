"""What is asked of a generator and what comes back: plain data, no vLLM, no Ray.

Token ids go in and come out, since decoding and encoding again is not the identity.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rnr_dist.types import SamplingSettings


@dataclass(frozen=True)
class Generate:
    """Continue a prompt. Exactly one of `token_ids` and `embeddings` (tokens x hidden, fp32)."""

    sampling: SamplingSettings
    token_ids: tuple[int, ...] | None = None
    embeddings: np.ndarray | None = None

    @property
    def sequences(self) -> int:
        return self.sampling.n


@dataclass(frozen=True)
class ReadLikelihood:
    """Log-likelihood of every token of a text from position `start` on, given those before it, and
    whether it is the arg max."""

    token_ids: tuple[int, ...]
    start: int = 1

    @property
    def sequences(self) -> int:
        # A prompt token costs about a tenth of a decoded one; this keeps batches alike in time.
        return max(1, len(self.token_ids) // 64)


Request = Generate | ReadLikelihood


@dataclass(frozen=True)
class Continuation:
    """One generated text. `finish_reason` is `stop` (end token) or `length`."""

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
