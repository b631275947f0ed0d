"""A look at the model under training: what it recalls of every sequence, and how alike in words.

In: an epoch's model. Out: (sequences,) figures and continuations, the same on every rank.
Invariant: each rank looks at its share of the sequences once; means over sequences are taken of
the whole, so they don't depend on the number of ranks.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np

from rnr_dist.icu.torch_reader import TorchReader
from rnr_dist.measures.memorisation import accuracy, recall
from rnr_dist.types import TokenSequence

if TYPE_CHECKING:
    from rnr_dist.icu.worker import EpochJob

_NO_PREFIX = sys.maxsize  # longer than any sequence: `recall` reads the continuation alone


class Look:
    """Holds what stays from epoch to epoch: tokenizer, scorer, this rank's share."""

    def __init__(self, job: EpochJob, model: Any, sequences: Sequence[TokenSequence]):
        from torch.distributed import get_rank, get_world_size
        from transformers import AutoTokenizer

        from rnr_dist.train.worker import autocast

        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        self._job = job
        self._tokenizer = AutoTokenizer.from_pretrained(job.tokenizer)
        self._reader = TorchReader(model, self._tokenizer.eos_token_id, autocast(job))
        self._similarity = None
        if job.scorer:
            from rnr_dist.measures.similarity import Similarity

            self._similarity = Similarity(job.scorer, job.refinement.scorer_layer)
        self._all = list(sequences)
        self._mine = range(get_rank(), len(self._all), get_world_size())

    def at_all(
        self, wanted: Callable[[float], bool]
    ) -> tuple[dict[str, tuple[float, ...]], list[str]]:
        """({figure: (sequences,)}, continuation of each prefix as text); all ranks call.

        wanted: whether EL is read at such a mean MA. It is dear: a model that recalls little asks
        for a decode at nearly every token. Unread it is no number; a continuation is then decoded
        only where its text is scored.
        """
        own = [self._all[at] for at in self._mine]
        matches = self._reader.matches([sequence.token_ids for sequence in own])
        recalled = [accuracy(match, self._job.counted.tokens) for match in matches]
        nan = float("nan")
        if not self._reader.finite:
            # A model whose logits are no numbers recalls nothing, and has not forgotten.
            recalled = [nan] * len(recalled)
        with_extraction = wanted(float(np.mean(self._of_all(recalled))))
        if with_extraction or self._similarity:
            rows = self._at(own, matches, with_extraction)
        else:
            rows = [(nan, nan, nan, ma, "") for ma in recalled]
        ordered = self._of_all(rows)
        figures = ("bertscore", "bleu", "extraction", "memorisation")
        return (
            {name: tuple(row[place] for row in ordered) for place, name in enumerate(figures)},
            [row[-1] for row in ordered],
        )

    def _of_all(self, own: Sequence[Any]) -> list[Any]:
        """Every rank's, in the order of the sequences; all ranks call."""
        from torch.distributed import all_gather_object, get_world_size

        parts: list[Any] = [None] * get_world_size()
        all_gather_object(parts, list(zip(self._mine, own, strict=True)))
        return [one for _, one in sorted((p for part in parts for p in part), key=itemgetter(0))]

    def _at(
        self,
        sequences: Sequence[TokenSequence],
        matches: Sequence[np.ndarray],
        with_extraction: bool,
    ) -> list[tuple[Any, ...]]:
        if not sequences:
            return []
        job, decode = self._job, self._tokenizer.decode
        t0, counted = job.prefix_tokens, job.counted
        read = recall(
            self._reader,
            [sequence.token_ids for sequence in sequences],
            t0,
            job.n,
            counted.prefixes if with_extraction else _NO_PREFIX,
            counted.denominator,
            eos=self._tokenizer.eos_token_id,
            matches=matches,
        )
        nan = float("nan")
        if not self._reader.finite:
            return [(nan, nan, nan, nan, "")] * len(sequences)
        said = [decode(one.continuation, skip_special_tokens=True) for one in read]
        truth = [decode(sequence.token_ids[t0:]) for sequence in sequences]
        # Not asked for: no number, which is below no limit.
        alike = bleu = [nan] * len(said)
        if self._similarity:
            alike = self._similarity.bertscore(said, truth).tolist()
            bleu = self._similarity.bleu(said, truth).tolist()
        extracted = [found.extraction if with_extraction else nan for found in read]
        recalled = [found.accuracy(counted.tokens) for found in read]
        return [*zip(alike, bleu, extracted, recalled, said, strict=True)]
