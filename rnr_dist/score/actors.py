"""Scoring actors: the oracle and the sentence embedder, each loaded once.

In: contexts and responses. Out: floats and unit-length embeddings. Invariant: callers see plain
arrays; which model made them stands in `version`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import ray

from rnr_dist.score.oracles import make_oracle


class OracleActor:
    """An oracle of `rnr_dist.score.oracles` in a process of its own."""

    def __init__(self, name: str):
        self._oracle = make_oracle(name)

    def version(self) -> str:
        return self._oracle.version

    def score(self, contexts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        """(n,) relevance in [0, 1]."""
        return self._oracle.score(contexts, responses)


class EmbedderActor:
    """A sentence-transformers model in a process of its own."""

    def __init__(self, name: str, threads: int = 1):
        import torch
        from sentence_transformers import SentenceTransformer

        from rnr_dist.weights.checkpoints import resolve_embedder

        torch.set_num_threads(threads)
        self._model = SentenceTransformer(resolve_embedder(name))

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """(n, d) float32 rows of unit length."""
        return self._model.encode(
            list(texts), normalize_embeddings=True, show_progress_bar=False, convert_to_numpy=True
        )


class Scorer:
    """What callers hold: picklable, forwards to the actors."""

    def __init__(self, oracle: Any, embedder: Any | None, version: str):
        self._oracle, self._embedder, self.version = oracle, embedder, version

    def score(self, contexts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        return ray.get(self.submit_score(contexts, responses))

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        return ray.get(self.submit_embed(texts))

    def submit_score(self, contexts: Sequence[str], responses: Sequence[str]) -> Any:
        """Ray object reference of the scores."""
        return self._oracle.score.remote(list(contexts), list(responses))

    def submit_embed(self, texts: Sequence[str]) -> Any:
        """Ray object reference of the embeddings."""
        assert self._embedder is not None, "this scorer was started without an embedder"
        return self._embedder.embed.remote(list(texts))


def start_scorer(oracle: str, embedder: str | None = None, gpus: float = 0) -> Scorer:
    """Start the actors (no CPUs held: they work while generators wait for them)."""
    # They hold nothing but a model: restarted, they answer what they were asked once more.
    kept = {"num_cpus": 0, "max_restarts": 3, "max_task_retries": 3}
    oracle_actor = ray.remote(OracleActor).options(**kept).remote(oracle)
    embedder_actor = None
    if embedder is not None:
        options = {**kept, "num_gpus": gpus}
        embedder_actor = ray.remote(EmbedderActor).options(**options).remote(embedder)
    return Scorer(oracle_actor, embedder_actor, ray.get(oracle_actor.version.remote()))


def embedded(embedder: str, texts: Sequence[str], gpus: float = 0) -> np.ndarray:
    """(n, d) unit rows of texts, by an embedder that lives for this call; Ray must run."""
    actor = ray.remote(EmbedderActor).options(num_cpus=0, num_gpus=gpus).remote(embedder)
    try:
        found: np.ndarray = ray.get(actor.embed.remote(list(texts)))
        return found
    finally:
        ray.kill(actor)
