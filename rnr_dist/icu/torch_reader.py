"""A model in this process as a `ModelReader`: arg maxes in one pass, continuations in one batch.

In: a transformers causal LM and its end token. Out: as `measures.memorisation` asks. Invariant: a
sequence's keys and values are computed once and kept whole, also in layers that see a window only;
every continuation starts from those of its own tokens, which lie right before what is said.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache

from rnr_dist.errors import InputError
from rnr_dist.measures.memorisation import Ids
from rnr_dist.train.collate import Example, pad
from rnr_dist.train.passes import label_states
from rnr_dist.weights.skeleton import head_is_last, skeleton

ROWS = 64  # continuations decoded together
KEPT_LAYERS = {"full_attention", "sliding_attention"}  # whose cache holds single places
SEQUENCES = 16  # sequences whose keys and values are held together
HEAD_PARTS = 4  # parts of their labels whose logits are held at once


class TorchReader:
    """Device follows the model. `finite`: whether all logits of the last `matches` were numbers.

    autocast: a context that the model runs in.
    """

    def __init__(self, model: Any, eos: int | None, autocast: Any = None):
        self._model = model
        self._eos = eos
        self._autocast = autocast or contextlib.nullcontext()
        self._device = next(model.parameters()).device
        self._takes_positions = takes_positions(model)
        self._positions = getattr(model.config, "max_position_embeddings", None)
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
                cache = self._model(
                    input_ids=rows,
                    # Without the model's config it keeps all places: a layer's own window would
                    # hold the sequence's last tokens and not those before a continuation.
                    past_key_values=DynamicCache(),
                    use_cache=True,
                    logits_to_keep=1,
                )
                # Alike in length, so that a batch ends together.
                places = [place for ids in held for place in by_sequence[ids]]
                places.sort(key=lambda place: -starts[place][2])
                owner = {ids: number for number, ids in enumerate(held)}
                for part in decoded_together(places, starts, self._positions):
                    asked = [starts[place] for place in part]
                    owners = [owner[ids] for ids, _, _ in asked]
                    told = self._decode(cache.past_key_values, owners, asked)
                    for place, answer in zip(part, told, strict=True):
                        answers[place] = answer
        return answers

    def _decode(
        self, cache: Any, owners: list[int], asked: Sequence[tuple[Ids, int, int]]
    ) -> list[Ids]:
        """Continuations of the given tokens, from the cache of their whole sequences."""
        device = self._device
        given = torch.tensor([length for _, length, _ in asked], device=device)
        most = torch.tensor([new for _, _, new in asked], device=device)
        # The last given token is read again: its logits begin the continuation.
        held = int(given.max()) - 1
        order = torch.arange(held, device=device) + (given - 1 - held)[:, None]
        own = _cut(cache, owners, order)
        mask = (order >= 0).long()
        token = torch.tensor([ids[length - 1] for ids, length, _ in asked], device=device)
        said = []
        ended = most <= 0
        for step in range(int(most.max())):
            mask = torch.cat([mask, mask.new_ones(len(asked), 1)], dim=1)
            places = {"position_ids": (given - 1 + step)[:, None]} if self._takes_positions else {}
            output = self._model(
                input_ids=token[:, None],
                attention_mask=mask,
                past_key_values=own,
                use_cache=True,
                **places,
            )
            token = output.logits[:, -1].argmax(-1)
            said.append(token)
            ended = ended | (step + 1 >= most)
            if self._eos is not None:
                ended = ended | (token == self._eos)
            if bool(ended.all()):
                break
        columns = torch.stack(said, dim=1).tolist() if said else [[] for _ in asked]
        return [self._ended(row[:new]) for row, (_, _, new) in zip(columns, asked, strict=True)]

    def _ended(self, row: list[int]) -> Ids:
        """Up to and with the end token."""
        if self._eos in row:
            row = row[: row.index(self._eos) + 1]
        return tuple(row)


def decoded_together(
    places: Sequence[int], starts: Sequence[tuple[Ids, int, int]], positions: int | None
) -> Iterator[list[int]]:
    """Places of `starts` in batches: `ROWS` of them at most, and what is given to one row and said
    by another fits the model's `positions`, since all rows are decoded for as long as any is."""
    part: list[int] = []
    longest = most = 0
    for place in places:
        _, given, new = starts[place]
        longest, most = max(longest, given), max(most, new)
        if part and (len(part) == ROWS or (positions and longest + most > positions)):
            yield part
            part, longest, most = [], given, new
        part.append(place)
    if part:
        yield part


def takes_positions(model: Any) -> bool:
    """Whether a model, PEFT around it or not, is told positions; others have them from the mask."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return "position_ids" in inspect.signature(inner.forward).parameters


def require_readable(folder: Path, trust_remote_code: bool) -> None:
    """Raises InputError for a checkpoint whose epochs can't be read or whose losses would be wrong.

    Continuations start from keys and values of each place, which a recurrent state has not, and
    `train.passes.label_losses` asks the head alone.
    """
    model = skeleton(folder, trust_remote_code)
    if model is None:
        raise InputError(f"{folder}: found code of its own; expected a model of transformers")
    kinds = set(getattr(model.config, "layer_types", None) or ()) - KEPT_LAYERS
    if kinds or getattr(model, "_is_stateful", False):
        named = ", ".join(sorted(kinds)) or type(model).__name__
        raise InputError(
            f"{folder}: found layers of {named}, whose state holds no single places; expected "
            "attention over all tokens or over a window, which unlearning of sequences reads by"
        )
    if not head_is_last(model):
        raise InputError(
            f"{folder}: {type(model).__name__} scales or caps its logits beside its head, which "
            "losses of sequences ask alone; expected one whose logits are its head's"
        )


def _cut(cache: Any, owners: list[int], order: Any) -> Any:
    """A cache of the owners' rows whose places are those of `order`, (rows, places).

    Places before a sequence's first, below 0, are padding. What was given lies right before what is
    said, since windows of attention count places; and no cache is longer than a sequence.
    """
    rows = torch.tensor(owners, device=order.device)
    index = order.clamp(min=0)[:, None, :, None]
    own = DynamicCache()
    for number, layer in enumerate(cache.layers):
        keys, values = (
            part[rows].take_along_dim(index.expand(-1, part.shape[1], -1, 1), 2)
            for part in (layer.keys, layer.values)
        )
        own.update(keys, values, number)
    return own
