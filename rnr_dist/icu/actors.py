"""ICU's models that are not under training, in Ray actors of their own: embedder and scorer."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import ray

from rnr_dist.bench import Machine
from rnr_dist.config.icu import IcuConfig
from rnr_dist.measures.similarity import Similarity, scorer_folder

Scores = tuple[np.ndarray, np.ndarray]


class SimilarityActor:
    """`Similarity` in a process of its own."""

    def __init__(self, scorer: str, layer: int | None):
        self._similarity = Similarity(scorer, layer)

    def score(self, found: Sequence[str], truth: Sequence[str]) -> Scores:
        """((n,) BERTScore F1, (n,) BLEU)."""
        return self._similarity.bertscore(found, truth), self._similarity.bleu(found, truth)


@contextlib.contextmanager
def similarity_of(
    config: IcuConfig, machine: Machine
) -> Iterator[Callable[[Sequence[str], Sequence[str]], Scores]]:
    """(found, truth) -> scores, within the block."""
    _ = machine.ray
    actor = (
        ray.remote(SimilarityActor)
        .options(num_cpus=0, max_restarts=3, max_task_retries=3)
        .remote(scorer_name(config), config.refinement.scorer_layer)
    )
    try:
        yield lambda found, truth: ray.get(actor.score.remote(list(found), list(truth)))
    finally:
        ray.kill(actor)


def scorer_name(config: IcuConfig) -> str:
    """BERTScore's encoder as its library takes it."""
    return scorer_folder(config.refinement.scorer)


def embedded(embedder: str, texts: Sequence[str], on_gpu: bool) -> Any:
    """(n, d) unit rows."""
    from rnr_dist.score.actors import EmbedderActor

    options = {"num_cpus": 0, "num_gpus": 0.1 if on_gpu else 0}
    actor = ray.remote(EmbedderActor).options(**options).remote(embedder)
    try:
        return ray.get(actor.embed.remote(list(texts)))
    finally:
        ray.kill(actor)
