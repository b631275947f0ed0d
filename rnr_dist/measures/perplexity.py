"""Perplexity windows: running text cut into token windows, read by the pool, summed by window.

Invariant: every scored token is scored once; with `stride` below `window` the overlap is context
only. Windows are the bootstrap's clusters. Passages are joined by a blank line, as is the custom
for WikiText.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rnr_dist.config.evaluation import Perplexity
from rnr_dist.data.encoding import begin_tokens, encoded_on
from rnr_dist.generate.requests import ReadLikelihood, Response
from rnr_dist.measures.measure import Measure, Role
from rnr_dist.stats import ClusterMean
from rnr_dist.types import Passage


def declare(name: str, title: str, table: str) -> Measure:
    """A perplexity of running text as a utility measure."""
    return Measure(
        f"perplexity/{name}",
        title,
        "perplexity",
        "lower",
        Role.UTILITY,
        name,
        adds="exp",
        cluster="window",
        style=".1f",
        table=table,
    )


def windows(
    passages: Sequence[Passage], tokenizer: Any, settings: Perplexity
) -> list[ReadLikelihood]:
    """At most `settings.max_windows` windows, evenly spread over the text.

    Each begins as a prompt does, with the begin token of a model that has one.
    """
    text = "\n\n".join(passage.text for passage in passages)
    begun, tokens = begin_tokens(tokenizer), encoded_on(tokenizer, text)
    room = settings.window - len(begun)
    stride = min(settings.stride, room)
    cut = []
    for begin in range(0, max(1, len(tokens) - 1), stride):
        piece = (*begun, *tokens[begin : begin + room])
        start = len(begun) + (0 if begin == 0 else room - stride)
        start = max(1, start)  # the first token of a window has nothing before it
        if len(piece) > start:
            cut.append(ReadLikelihood(piece, start))
        if begin + room >= len(tokens):
            break
    chosen = np.unique(np.linspace(0, len(cut) - 1, min(settings.max_windows, len(cut))).round())
    return [cut[int(index)] for index in chosen]


def perplexity(responses: Sequence[Response]) -> ClusterMean:
    """Token-weighted exp(mean NLL), one cluster a window."""
    return ClusterMean(
        np.array([-sum(response.log_likelihoods) for response in responses]),
        np.array([float(len(response.log_likelihoods)) for response in responses]),
        exponential=True,
    )
