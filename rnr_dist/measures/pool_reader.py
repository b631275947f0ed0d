"""A model behind an endpoint as a `ModelReader`; the engines' cache shares the prefixes.

In: an endpoint, a model, sequences. Out: which tokens it guesses, what it goes on with, and how
likely it finds them. Invariant: a sequence is read from its own prefix on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rnr_dist.generate.requests import Generate, ReadLikelihood
from rnr_dist.measures.measure import Measure
from rnr_dist.measures.memorisation import Ids
from rnr_dist.stats import ClusterMean
from rnr_dist.types import ModelRef, SamplingSettings, TokenSequence


class PoolReader:
    """pool: anything with an endpoint's `run`. describe: names the progress bars."""

    def __init__(self, pool: Any, model: ModelRef, describe: str = ""):
        self._pool, self._model, self._describe = pool, model, describe

    def matches(self, sequences: Sequence[Ids]) -> list[np.ndarray]:
        asked = [ReadLikelihood(ids) for ids in sequences]
        return [np.array(answer.arg_max, bool) for answer in self._run(asked, "recall")]

    def greedy(self, starts: Sequence[tuple[Ids, int, int]]) -> list[Ids]:
        asked = [
            Generate(SamplingSettings(1, new, 0.0, 1.0), ids[:length])
            for ids, length, new in starts
        ]
        return [answer.continuations[0].token_ids for answer in self._run(asked, "continuations")]

    def nll(self, sequences: Sequence[TokenSequence], measure: Measure) -> ClusterMean:
        """Nats a token of what follows each sequence's prefix."""
        asked = [ReadLikelihood(one.token_ids, one.prefix_tokens) for one in sequences]
        answers = self._pool.run(self._model, asked)
        return measure.of(
            (-sum(answer.log_likelihoods) for answer in answers),
            (float(len(answer.log_likelihoods)) for answer in answers),
        )

    def _run(self, requests: list[Any], what: str) -> list[Any]:
        describe = f"{self._describe}: {what}" if self._describe else ""
        return list(self._pool.run(self._model, requests, describe))
