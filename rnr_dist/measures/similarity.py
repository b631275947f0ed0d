"""How alike a continuation and the truth are: BERTScore F1 and BLEU, by their libraries.

In: pairs of texts. Out: (n,) floats. Invariant: the encoder is loaded once; an empty continuation
scores 0 in both.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np

from rnr_dist.errors import InputError

Scores = tuple[np.ndarray, np.ndarray]
Similar = Callable[[Sequence[str], Sequence[str]], Scores]  # of (found, truth) texts


class TextSimilarity:
    """scorer: folder of BERTScore's encoder; layer: which of its layers (the last: None)."""

    def __init__(self, scorer: str, layer: int | None = None, threads: int | None = None):
        logging.getLogger("transformers.modeling_utils").setLevel(logging.ERROR)
        from bert_score import BERTScorer
        from transformers import AutoConfig

        try:
            layers = AutoConfig.from_pretrained(scorer).num_hidden_layers
        except (OSError, ValueError) as error:
            raise InputError(
                f"refinement.scorer {scorer}: no encoder can be loaded ({error}); expected "
                "embedded:minilm, a folder or a hub name"
            ) from error
        if layer is not None and layer > layers:
            raise InputError(f"refinement.scorer_layer {layer}: {scorer} has {layers} layers")
        self._scorer: Any = BERTScorer(model_type=scorer, num_layers=layer or layers)

    def scores(self, found: Sequence[str], truth: Sequence[str]) -> Scores:
        """((n,) BERTScore F1, (n,) BLEU)."""
        return self.bertscore(found, truth), self.bleu(found, truth)

    def bertscore(self, found: Sequence[str], truth: Sequence[str]) -> np.ndarray:
        """F1, neither rescaled nor weighted by rarity."""
        scores = np.zeros(len(found))
        said = [place for place, text in enumerate(found) if text.strip()]
        if said:
            _, _, f1 = self._scorer.score(
                [found[place] for place in said], [truth[place] for place in said]
            )
            scores[said] = f1.numpy()
        return scores

    def bleu(self, found: Sequence[str], truth: Sequence[str]) -> np.ndarray:
        """Sentence BLEU of up to four words in a row, in [0, 1]: lower case, no smoothing."""
        return np.array(
            [sentence_bleu(one, other) for one, other in zip(found, truth, strict=True)]
        )


def sentence_bleu(found: str, truth: str) -> float:
    """BLEU-4 of one pair: 0 where no four words in a row are common."""
    return float(_bleu().sentence_score(found, [truth]).score) / 100 if found.strip() else 0.0


@cache
def _bleu() -> Any:
    from sacrebleu.metrics.bleu import BLEU

    # Its advice, an order that shrinks with the text, would give three common words a score.
    logging.getLogger("sacrebleu").setLevel(logging.ERROR)
    return BLEU(lowercase=True, smooth_method="none", effective_order=False)


class SimilarityActor:
    """`TextSimilarity` in a process of its own, loaded when it is first asked."""

    def __init__(self, scorer: str, layer: int | None):
        self._settings = scorer, layer

    @cached_property
    def _similarity(self) -> TextSimilarity:
        return TextSimilarity(*self._settings)

    def scores(self, found: Sequence[str], truth: Sequence[str]) -> Scores:
        return self._similarity.scores(found, truth)


@contextlib.contextmanager
def similarity_scores(scorer: str, layer: int | None) -> Iterator[Similar]:
    """(found, truth) -> scores, in a process of its own within the block; Ray must run."""
    import ray

    from rnr_dist.machine.actors import KEPT, ask

    actor = ray.remote(SimilarityActor).options(**KEPT).remote(scorer_folder(scorer), layer)
    try:
        yield lambda found, truth: ask(lambda: actor.scores.remote(list(found), list(truth)))
    finally:
        ray.kill(actor)


def scorer_folder(name: str) -> str:
    """Where the encoder called `name` lies, or its hub name."""
    from rnr_dist.weights.checkpoints import resolve_embedder

    return str(Path(resolve_embedder(name)))
