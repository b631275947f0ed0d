"""Scoring actors: the oracle and the sentence embedder, each loaded once.

In: contexts and responses. Out: floats and unit-length embeddings. Invariant: callers see plain
arrays; which model made them stands in `version`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import ray

from rnr_dist.config.oracles import Named
from rnr_dist.machine.actors import KEPT, answer, ask, started
from rnr_dist.score.oracles import make_oracle


class OracleActor:
    """An oracle of `rnr_dist.score.oracles` in a process of its own."""

    def __init__(self, name: Named):
        self._name = name

    @cached_property
    def _oracle(self) -> Any:
        # Not in `__init__`: what is raised there, Ray tells as a text of its own.
        return make_oracle(self._name)

    def version(self) -> str:
        return self._oracle.version

    def score(self, contexts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        """(n,) relevance in [0, 1]."""
        return self._oracle.score(contexts, responses)


class EmbedderActor:
    """A sentence-transformers model in a process of its own."""

    def __init__(self, name: str, threads: int = 1):
        self._name, self._threads = name, threads

    @cached_property
    def _model(self) -> Any:
        import torch
        from sentence_transformers import SentenceTransformer

        from rnr_dist.weights.checkpoints import resolve_embedder

        torch.set_num_threads(self._threads)
        return SentenceTransformer(resolve_embedder(self._name))

    def ready(self) -> bool:
        """Once the model is loaded."""
        return self._model is not None

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """(n, d) float32 rows of unit length."""
        return self._model.encode(
            list(texts), normalize_embeddings=True, show_progress_bar=False, convert_to_numpy=True
        )


class Scorer:
    """What callers hold: picklable, forwards to the actors.

    An actor whose node or process died is waited for and asked once more (`machine.actors`).
    """

    def __init__(self, oracle: Any, embedder: Any | None, version: str):
        self._oracle, self._embedder, self.version = oracle, embedder, version

    def score(self, contexts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        return ask(lambda: self._oracle.score.remote(list(contexts), list(responses)))

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        return ask(lambda: self._embed(texts))

    def submit_score(
        self, contexts: Sequence[str], responses: Sequence[str]
    ) -> Awaitable[np.ndarray]:
        """The scores, to be awaited."""
        return answer(lambda: self._oracle.score.remote(list(contexts), list(responses)))

    def submit_embed(self, texts: Sequence[str]) -> Awaitable[np.ndarray]:
        """The embeddings, to be awaited."""
        return answer(lambda: self._embed(texts))

    def _embed(self, texts: Sequence[str]) -> Any:
        assert self._embedder is not None, "this scorer was started without an embedder"
        return self._embedder.embed.remote(list(texts))


def start_scorer(oracle: Named, embedder: str | None = None, gpus: float = 0) -> Scorer:
    """Start the actors (no CPUs held: they work while generators wait for them).

    Raises InputError where one cannot be loaded, or finds no place.
    """
    oracle_actor = ray.remote(OracleActor).options(**KEPT).remote(oracle)
    version, embedder_actor = oracle_actor.version.remote(), None
    if embedder is not None:
        embedder_actor = _embedder(embedder, gpus)
        ready = embedder_actor.ready.remote()  # both load at the same time
        started(ready, f"embedder {embedder}")
    return Scorer(oracle_actor, embedder_actor, started(version, f"oracle {oracle}"))


def embedded(embedder: str, texts: Sequence[str], gpus: float = 0) -> np.ndarray:
    """(n, d) unit rows of texts, by an embedder that lives for this call; Ray must run."""
    actor = _embedder(embedder, gpus)
    try:
        started(actor.ready.remote(), f"embedder {embedder}")
        found: np.ndarray = ask(lambda: actor.embed.remote(list(texts)))
        return found
    finally:
        ray.kill(actor)


def _embedder(name: str, gpus: float) -> Any:
    return ray.remote(EmbedderActor).options(**KEPT, num_gpus=gpus).remote(name)
