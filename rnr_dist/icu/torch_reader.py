"""A model in this process as a `ModelReader`: arg maxes in one pass, continuations in one batch.

In: a transformers causal LM and its end token. Out: as `measures.memorisation` asks. Invariant: a
sequence's keys and values are computed once; every continuation of it starts from a view of them
with the later positions masked, so nothing is read twice.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from rnr_dist.measures.memorisation import Ids
from rnr_dist.train.collate import Example, pad
from rnr_dist.train.passes import HEAD_PARTS, label_states

ROWS = 64  # continuations decoded together
SEQUENCES = 16  # sequences whose keys and values are held together


class TorchReader:
    """Device follows the model. `finite`: whether all logits of the last `matches` were numbers.

    autocast: a context that the model runs in.
    """

    def __init__(self, model: Any, eos: int | None, autocast: Any = None):
        self._model = model
        self._eos = eos
        self._autocast = autocast or contextlib.nullcontext()
        self._device = next(model.parameters()).device
        self.finite = True

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        training = self._model.training
        self._model.eval()
        try:
            # Under inference_mode autocast would cast all weights anew for every token.
            with torch.no_grad(), self._autocast:
                yield
        finally:
            self._model.train(training)

    def matches(self, sequences: Sequence[Ids]) -> list[np.ndarray]:
        found: list[np.ndarray] = []
        head = self._model.get_output_embeddings()
        self.finite = True
        with self._reading():
            for start in range(0, len(sequences), SEQUENCES):
                part = [Example(ids, 0) for ids in sequences[start : start + SEQUENCES]]
                rows = {key: value.to(self._device) for key, value in pad(part).items()}
                states = label_states(self._model, rows)
                guesses = []
                for piece in states.tensor_split(HEAD_PARTS):
                    logits = head(piece)
                    self.finite = self.finite and bool(logits.isfinite().all())
                    guesses.append(logits.argmax(-1))
                targets = rows["labels"][:, 1:][rows["labels"][:, 1:] >= 0]
                right = (torch.cat(guesses) == targets).cpu().numpy()
                ends = np.cumsum([len(example.token_ids) - 1 for example in part])
                found += np.split(right, ends[:-1])
        return found

    def greedy(self, starts: Sequence[tuple[Ids, int, int]]) -> list[Ids]:
        answers: list[Ids] = [()] * len(starts)
        by_sequence: dict[Ids, list[int]] = {}
        for place, (ids, _, _) in enumerate(starts):
            by_sequence.setdefault(ids, []).append(place)
        sequences = list(by_sequence)
        with self._reading():
            for start in range(0, len(sequences), SEQUENCES):
                held = sequences[start : start + SEQUENCES]
                rows = pad([Example(ids, 0) for ids in held])["input_ids"].to(self._device)
                cache = self._model(input_ids=rows, use_cache=True, logits_to_keep=1)
                # Alike in length, so that a batch ends together.
                places = [place for ids in held for place in by_sequence[ids]]
                places.sort(key=lambda place: -starts[place][2])
                owner = {ids: number for number, ids in enumerate(held)}
                for first in range(0, len(places), ROWS):
                    part = places[first : first + ROWS]
                    asked = [starts[place] for place in part]
                    owners = [owner[ids] for ids, _, _ in asked]
                    told = self._decode(cache.past_key_values, rows.shape[1], owners, asked)
                    for place, answer in zip(part, told, strict=True):
                        answers[place] = answer
        return answers

    def _decode(
        self, cache: Any, width: int, owners: list[int], asked: Sequence[tuple[Ids, int, int]]
    ) -> list[Ids]:
        """Continuations of the given tokens, from the cache of their whole sequences."""
        device = self._device
        own = copy.deepcopy(cache)
        own.batch_select_indices(torch.tensor(owners, device=device))
        given = torch.tensor([length for _, length, _ in asked], device=device)
        most = torch.tensor([new for _, _, new in asked], device=device)
        # The last given token is read again: its logits begin the continuation.
        places = torch.arange(width, device=device)
        _turn(own, (places[None] + (given - 1)[:, None]) % width)
        mask = (places[None] >= (width + 1 - given)[:, None]).long()
        token = torch.tensor([ids[length - 1] for ids, length, _ in asked], device=device)
        said = []
        ended = most <= 0
        for step in range(int(most.max())):
            mask = torch.cat([mask, mask.new_ones(len(asked), 1)], dim=1)
            output = self._model(
                input_ids=token[:, None],
                attention_mask=mask,
                position_ids=(given - 1 + step)[:, None],
                past_key_values=own,
                use_cache=True,
            )
            token = output.logits[:, -1].argmax(-1)
            said.append(token)
            ended = ended | (step + 1 >= most)
            if self._eos is not None:
                ended = ended | (token == self._eos)
            if bool(ended.all()):
                break
        columns = torch.stack(said, dim=1).tolist() if said else [[] for _ in asked]
        return [self._cut(row[:new]) for row, (_, _, new) in zip(columns, asked, strict=True)]

    def _cut(self, row: list[int]) -> Ids:
        """Up to and with the end token."""
        if self._eos in row:
            row = row[: row.index(self._eos) + 1]
        return tuple(row)


def _turn(cache: Any, order: Any) -> None:
    """Put each row's places of the cache in this order, (rows, places).

    What was given then lies right before what is said: windows of attention count places.
    """
    for layer in cache.layers:
        if layer.keys.shape[2] == order.shape[1]:  # none that holds its own window alone
            index = order[:, None, :, None].expand(-1, layer.keys.shape[1], -1, 1)
            layer.keys = layer.keys.take_along_dim(index, 2)
            layer.values = layer.values.take_along_dim(index, 2)
