"""Continuations and likelihoods from a transformers model, in batches: a loop over its own cache.

In: a causal LM, its tokenizer, requests. Out: what was said or read, in request order. Invariant:
rows are padded on the left, so places in the cache lie apart as the positions do (sliding windows
count places), and every row's positions begin at 0; a row that has ended is never read again.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from rnr_dist.generate.nucleus import mask_nucleus
from rnr_dist.generate.requests import (
    Continuation,
    Generate,
    ReadLikelihood,
    before_stop,
    prompt_ids,
)

# Padded tokens whose logits a likelihood pass holds at once: 200 MB of a vocabulary of 49k.
READ_TOKENS = 1024
# Of the rows of a batch, the share that still goes on below which the others leave the cache.
COMPACT_BELOW = 0.75

Likelihoods = tuple[tuple[float, ...], tuple[bool, ...]]


@dataclass(frozen=True)
class Bounds:
    """Of one batch: sequences, and places of the cache over all of them; of one sequence: tokens
    of prompt and output together."""

    sequences: int
    places: int
    longest: int


@dataclass
class _Row:
    """One continuation under way. owner: its request's number; most: tokens that it may take."""

    owner: int
    request: Generate
    most: int
    token_ids: list[int] = field(default_factory=list)
    finish_reason: str = ""


class Decoder:
    """ends: the tokens that end a continuation. Device and number format follow the model."""

    def __init__(self, model: Any, tokenizer: Any, ends: Sequence[int], bounds: Bounds):
        self._model = model
        self._tokenizer = tokenizer
        self._ends = frozenset(ends)
        self._bounds = bounds
        self._device = next(model.parameters()).device
        self._takes_positions = "position_ids" in inspect.signature(model.forward).parameters

    @torch.inference_mode()
    def continuations(self, requests: Sequence[Generate]) -> list[tuple[Continuation, ...]]:
        """Of each request its `n` continuations.

        Raises ValueError for a prompt that is empty or leaves no room for a token.
        """
        prompts = [self._prompt(request) for request in requests]
        rows = []
        for owner, (request, prompt) in enumerate(zip(requests, prompts, strict=True)):
            room = self._bounds.longest - len(prompt)
            if not len(prompt) or room < 1:
                raise ValueError(
                    f"a prompt has {len(prompt)} tokens; expected 1 to {self._bounds.longest - 1}"
                )
            most = min(request.sampling.max_tokens, room)
            rows += [_Row(owner, request, most) for _ in range(request.sampling.n)]
        order = sorted(rows, key=lambda row: (prompts[row.owner].dim(), *_size(row, prompts)))
        for batch in self._batches(order, prompts):
            self._decode(batch, prompts)
        said = iter(self._texts(rows))
        return [tuple(next(said) for _ in range(request.sampling.n)) for request in requests]

    @torch.inference_mode()
    def likelihoods(self, requests: Sequence[ReadLikelihood]) -> list[Likelihoods]:
        """Of each request log p (nats) of its tokens from `start` on, and which are arg maxes."""
        texts = [prompt_ids(request, self._tokenizer) for request in requests]
        for text in texts:
            if len(text) > self._bounds.longest:
                raise ValueError(
                    f"a text has {len(text)} tokens; expected at most {self._bounds.longest}"
                )
        found: list[Likelihoods] = [((), ())] * len(requests)
        order = sorted(range(len(requests)), key=lambda at: len(texts[at]))
        while order:
            width = len(texts[order[-1]])
            several = max(1, READ_TOKENS // max(1, width))
            order, part = order[:-several], order[-several:]
            read = self._read([texts[at] for at in part], [requests[at].start for at in part])
            for at, answer in zip(part, read, strict=True):
                found[at] = answer
        return found

    def _prompt(self, request: Generate) -> torch.Tensor:
        """(tokens,) ids or (tokens, hidden) embeddings."""
        if request.embeddings is not None:
            dtype = self._model.get_input_embeddings().weight.dtype
            return torch.from_numpy(request.embeddings).to(self._device, dtype)
        return torch.tensor(prompt_ids(request, self._tokenizer), device=self._device).long()

    def _batches(self, order: Sequence[_Row], prompts: Sequence[Any]) -> Iterator[list[_Row]]:
        """Runs of rows that fit together, prompts of ids and of embeddings apart."""
        batch: list[_Row] = []
        width = most = 0
        for row in order:
            length, asked = _size(row, prompts)
            wide, long = max(width, length), max(most, asked)
            full = batch and (
                len(batch) == self._bounds.sequences
                or wide + long > self._bounds.longest
                or (len(batch) + 1) * (wide + long) > self._bounds.places
                or prompts[row.owner].dim() != prompts[batch[0].owner].dim()
            )
            if full:
                yield batch
                batch, wide, long = [], length, asked
            batch.append(row)
            width, most = wide, long
        if batch:
            yield batch

    def _decode(self, rows: list[_Row], prompts: Sequence[torch.Tensor]) -> None:
        """Fill in what the rows of a batch say. A prompt is read once, however many share it."""
        owners = list(dict.fromkeys(row.owner for row in rows))
        place = {owner: at for at, owner in enumerate(owners)}
        mask, inputs = self._padded([prompts[owner] for owner in owners])
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        logits, cache = self._step(inputs, mask, positions, None)
        chosen = self._indices([place[row.owner] for row in rows])
        if len(rows) > len(owners):
            cache.batch_select_indices(chosen)
        logits, mask, last = logits[chosen], mask[chosen], positions[chosen, -1]
        while True:
            tokens = _drawn(logits, [row.request.sampling for row in rows])
            self._hear(rows, tokens.tolist())
            going = [at for at, row in enumerate(rows) if not row.finish_reason]
            if not going:
                return
            if len(going) < COMPACT_BELOW * len(rows):
                kept = self._indices(going)
                cache.batch_select_indices(kept)
                rows = [rows[at] for at in going]
                mask, last, tokens = mask[kept], last[kept], tokens[kept]
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
            last = last + 1
            inputs = {"input_ids": tokens[:, None]}
            logits, cache = self._step(inputs, mask, last[:, None], cache)

    def _padded(self, prompts: Sequence[torch.Tensor]) -> tuple[torch.Tensor, dict[str, Any]]:
        """(rows, width) mask and the model's input of prompts, zeros before the shorter ones."""
        width = max(map(len, prompts))
        padded = prompts[0].new_zeros(len(prompts), width, *prompts[0].shape[1:])
        mask = torch.zeros(len(prompts), width, dtype=torch.long, device=self._device)
        for at, prompt in enumerate(prompts):
            padded[at, width - len(prompt) :] = prompt
            mask[at, width - len(prompt) :] = 1
        return mask, {"input_ids" if prompts[0].dim() == 1 else "inputs_embeds": padded}

    def _step(
        self, inputs: dict[str, Any], mask: torch.Tensor, positions: torch.Tensor, cache: Any
    ) -> tuple[torch.Tensor, Any]:
        """(rows, vocabulary) fp32 logits after the last place, and the cache that grew by it."""
        if self._takes_positions:
            inputs = {**inputs, "position_ids": positions}
        with self._head_of(lambda states: states[:, -1:]):
            output = self._model(
                **inputs, attention_mask=mask, past_key_values=cache, use_cache=True
            )
        return output.logits[:, -1].float(), output.past_key_values

    def _hear(self, rows: Sequence[_Row], tokens: Sequence[int]) -> None:
        """Add each row's next token and note which rows end with it."""
        for row, token in zip(rows, tokens, strict=True):
            if row.finish_reason:
                continue
            row.token_ids.append(token)
            if token in self._ends:
                row.finish_reason = "stop"
            elif len(row.token_ids) >= row.most:
                row.finish_reason = "length"
        stoppable = [row for row in rows if row.request.sampling.stop and not row.finish_reason]
        for row, text in zip(stoppable, self._decoded(stoppable), strict=True):
            if before_stop(text, row.request.sampling.stop) != text:
                row.finish_reason = "stop"

    def _texts(self, rows: Sequence[_Row]) -> list[Continuation]:
        found = []
        for row, text in zip(rows, self._decoded(rows), strict=True):
            cut = before_stop(text, row.request.sampling.stop)
            reason = row.finish_reason if cut == text else "stop"
            found.append(Continuation(tuple(row.token_ids), cut, reason))
        return found

    def _decoded(self, rows: Sequence[_Row]) -> list[str]:
        if not rows:  # of nothing a tokenizer makes one empty text
            return []
        ids = [row.token_ids for row in rows]
        return list(self._tokenizer.batch_decode(ids, skip_special_tokens=True))

    def _read(self, texts: Sequence[Sequence[int]], starts: Sequence[int]) -> list[Likelihoods]:
        """One pass. Causal attention never looks right, so padding on the right needs no mask."""
        width = max(map(len, texts))
        ids = torch.tensor([[*text, *[0] * (width - len(text))] for text in texts])
        wanted = torch.tensor(
            [
                [start <= at < len(text) for at in range(1, width)]
                for text, start in zip(texts, starts, strict=True)
            ]
        ).reshape(len(texts), max(0, width - 1))
        if not bool(wanted.any()):
            return [((), ())] * len(texts)
        ids, wanted = ids.to(self._device), wanted.to(self._device)
        with self._head_of(lambda states: states[:, :-1][wanted]):
            logits = self._model(input_ids=ids, use_cache=False).logits.float()
        targets = ids[:, 1:][wanted]
        log_p = logits.gather(1, targets[:, None])[:, 0] - logits.logsumexp(-1)
        right = (logits.argmax(-1) == targets).tolist()
        counts, log_p = wanted.sum(1).tolist(), log_p.tolist()
        found, first = [], 0
        for count in counts:
            part = slice(first, first + count)
            found.append((tuple(log_p[part]), tuple(right[part])))
            first += count
        return found

    @contextlib.contextmanager
    def _head_of(self, select: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
        """Within the block the model's head reads only what `select` takes of its states.

        On the way into the head, so that scaled or capped logits stay what the model makes of them.
        """
        hook = self._model.get_output_embeddings().register_forward_pre_hook(
            lambda _, inputs: (select(inputs[0]),)
        )
        try:
            yield
        finally:
            hook.remove()

    def _indices(self, places: Sequence[int]) -> torch.Tensor:
        return torch.tensor(places, device=self._device)


def _size(row: _Row, prompts: Sequence[Any]) -> tuple[int, int]:
    """Tokens of the prompt, and tokens that may follow."""
    return len(prompts[row.owner]), row.most


def _drawn(logits: torch.Tensor, settings: Sequence[Any]) -> torch.Tensor:
    """(rows,) next tokens: the arg max at temperature 0, else a draw from the exact nucleus.

    A draw is the arg max of p / Exp(1). Logits that are no numbers give some token, as vLLM's do:
    a model that diverged is judged by what it says, not by an error.
    """
    greedy = logits.argmax(-1)
    temperature = torch.tensor([one.temperature for one in settings], device=logits.device)
    warm = temperature > 0
    if not bool(warm.any()):
        return greedy
    scaled = logits[warm] / temperature[warm][:, None]
    top_p = torch.tensor([one.top_p for one in settings], device=logits.device)[warm]
    shares = mask_nucleus(scaled, top_p).softmax(-1)
    greedy[warm] = shares.div_(torch.empty_like(shares).exponential_()).argmax(-1)
    return greedy
