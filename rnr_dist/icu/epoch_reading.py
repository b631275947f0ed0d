"""The model under training, read after an epoch: what it recalls of every sequence.

In: an epoch's model. Out: (sequences,) figures and continuations, the same on every rank.
Invariant: each rank reads its share of the sequences once; means over sequences are taken of the
whole, so they don't depend on the number of ranks.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any

import numpy as np

from rnr_dist.icu.job import EpochPlan
from rnr_dist.icu.torch_reader import TorchReader
from rnr_dist.measures.memorisation import accuracy, recall
from rnr_dist.types import TokenSequence

FIGURES = ("bertscore", "bleu", "extraction", "memorisation")
NAN = float("nan")


class EpochReader:
    """Holds what stays from epoch to epoch: tokenizer, scorer, this rank's share.

    checkpoint: whose tokenizer decodes. autocast: the context that the model runs in.
    """

    def __init__(self, plan: EpochPlan, model: Any, checkpoint: str, autocast: Any):
        from torch.distributed import get_rank, get_world_size
        from transformers import AutoTokenizer

        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        self._plan = plan
        self._tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        self._reader = TorchReader(model, self._tokenizer.eos_token_id, autocast)
        self._similarity = None
        if plan.leaving.scorer:
            from rnr_dist.measures.similarity import TextSimilarity

            self._similarity = TextSimilarity(plan.leaving.scorer, plan.leaving.rule.scorer_layer)
        self._all = list(plan.sequences)
        self._mine = range(get_rank(), len(self._all), get_world_size())

    def read(
        self, wanted: Callable[[float], bool]
    ) -> tuple[dict[str, tuple[float, ...]], list[str]]:
        """({figure: (sequences,)}, continuation of each prefix as text); all ranks call.

        wanted: whether EL is read at such a mean MA. It is dear: a model that recalls little asks
        for a decode at nearly every token. Unread it is no number; a continuation is then decoded
        only where its text is scored.
        """
        own = [self._all[at] for at in self._mine]
        matches = self._reader.matches([sequence.token_ids for sequence in own])
        recalled = self._recalled(own, matches)
        if not self._reader.finite:
            # A model whose logits are no numbers recalls nothing, and has not forgotten.
            recalled = [NAN] * len(recalled)
        with_extraction = wanted(float(np.mean(self._of_all(recalled))))
        if with_extraction or self._similarity:
            rows = self._rows(own, matches, with_extraction)
        else:
            rows = [(NAN, NAN, NAN, ma, "") for ma in recalled]
        ordered = self._of_all(rows)
        return (
            {name: tuple(row[place] for row in ordered) for place, name in enumerate(FIGURES)},
            [row[-1] for row in ordered],
        )

    def _recalled(
        self, sequences: Sequence[TokenSequence], matches: Sequence[np.ndarray]
    ) -> list[float]:
        first = self._plan.counted.first_token
        return [accuracy(match, first(one)) for one, match in zip(sequences, matches, strict=True)]

    def _of_all(self, own: Sequence[Any]) -> list[Any]:
        """Every rank's, in the order of the sequences; all ranks call."""
        from torch.distributed import all_gather_object, get_world_size

        parts: list[Any] = [None] * get_world_size()
        all_gather_object(parts, list(zip(self._mine, own, strict=True)))
        return [one for _, one in sorted((p for part in parts for p in part), key=itemgetter(0))]

    def _rows(
        self,
        sequences: Sequence[TokenSequence],
        matches: Sequence[np.ndarray],
        with_extraction: bool,
    ) -> list[tuple[Any, ...]]:
        if not sequences:
            return []
        counted, decode = self._plan.counted, self._tokenizer.decode
        prefixes = counted.prefixes if with_extraction else "none"
        read = recall(self._reader, sequences, counted.counting, prefixes, matches)
        if not self._reader.finite:
            return [(NAN, NAN, NAN, NAN, "")] * len(sequences)
        said = [decode(one.continuation, skip_special_tokens=True) for one in read]
        truth = [decode(sequence.token_ids[sequence.prefix_tokens :]) for sequence in sequences]
        # Not asked for: no number, which is below no limit.
        alike = bleu = [NAN] * len(said)
        if self._similarity:
            alike = self._similarity.bertscore(said, truth).tolist()
            bleu = self._similarity.bleu(said, truth).tolist()
        extracted = [found.extraction if with_extraction else NAN for found in read]
        return [*zip(alike, bleu, extracted, self._recalled(sequences, matches), said, strict=True)]
