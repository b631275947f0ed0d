"""Which examples meet in which optimiser step, and how they become tensors.

In: tokenised examples. Out: a plan of steps, and right-padded batches. Invariant: the plan follows
from its arguments alone, so every rank computes the same one and knows a step's valid tokens
over all ranks and micro-batches before the first backward pass (design decision 7).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

IGNORED = -100  # the label that torch's cross-entropy skips
# Batches that are sorted by length together: more means less padding and less shuffling.
BATCHES_SORTED_TOGETHER = 8


@dataclass(frozen=True)
class Example:
    """One training sequence: prompt, then the response that is learnt.

    `prompt_tokens` of `token_ids` are the prompt. The response ends with the model's end token
    where the model shall learn to stop.
    """

    token_ids: tuple[int, ...]
    prompt_tokens: int

    @property
    def labels(self) -> int:
        """Number of tokens that are learnt."""
        return max(0, len(self.token_ids) - self.first_label)

    @property
    def first_label(self) -> int:
        """Index of the first token that is learnt: nothing predicts a sequence's first token."""
        return max(self.prompt_tokens, 1)

    def cut(self, max_tokens: int) -> Example:
        """The first `max_tokens` tokens."""
        return replace(self, token_ids=self.token_ids[:max_tokens])


@dataclass(frozen=True)
class Step:
    """One optimiser step: `micro_batches[rank][i]` are indices of examples.

    Every rank has equally many micro-batches. One of them is empty where a step has fewer examples
    than places; its rank still takes part in the collectives of the others.
    """

    micro_batches: tuple[tuple[tuple[int, ...], ...], ...]

    @property
    def indices(self) -> tuple[int, ...]:
        """All examples of the step, over ranks and micro-batches."""
        return tuple(index for rank in self.micro_batches for micro in rank for index in micro)


def plan_steps(
    lengths: Sequence[int],
    batch_size: int,
    micro_batch_tokens: int,
    world_size: int,
    epochs: int,
    seed: int,
) -> list[Step]:
    """Cover the examples once in each epoch, in batches of similar length.

    lengths: tokens of each example. batch_size: examples of one step over all ranks, at most;
    an epoch's steps are equally large to within one. micro_batch_tokens: padded tokens of one
    forward pass, at most, unless one example alone has more.
    """
    n_steps = -(-len(lengths) // batch_size)
    steps = []
    for epoch in range(epochs):
        generator = np.random.default_rng([seed, epoch])
        order = _roughly_by_length(np.asarray(lengths), batch_size, generator)
        batches = np.array_split(order, n_steps)
        steps += [
            _share(batches[place], lengths, micro_batch_tokens, world_size)
            for place in generator.permutation(n_steps)
        ]
    return steps


def _roughly_by_length(
    lengths: np.ndarray, batch_size: int, generator: np.random.Generator
) -> np.ndarray:
    """A random order, sorted within chunks, up and down in turn so that chunks join smoothly."""
    order = generator.permutation(len(lengths))
    size = batch_size * BATCHES_SORTED_TOGETHER
    chunks = [order[start : start + size] for start in range(0, len(order), size)]
    ascending = [chunk[np.argsort(lengths[chunk], kind="stable")] for chunk in chunks]
    return np.concatenate([chunk[:: (-1) ** place] for place, chunk in enumerate(ascending)])


def _share(batch: np.ndarray, lengths: Sequence[int], most: int, world_size: int) -> Step:
    """As few micro-batches as `most` padded tokens allow, equally many a rank.

    Neighbours in length go to different ranks at the same time, so that no rank waits.
    """
    accumulation = 0
    fits = False
    while not fits:
        accumulation += 1
        parts = [tuple(p.tolist()) for p in np.array_split(batch, accumulation * world_size)]
        fits = all(
            len(part) <= 1 or len(part) * max(lengths[index] for index in part) <= most
            for part in parts
        )
    return Step(tuple(tuple(parts[rank::world_size]) for rank in range(world_size)))


def pad(examples: Sequence[Example]) -> dict[str, Any]:
    """Right-padded int64 tensors (examples, longest): input_ids, attention_mask, labels.

    Labels are IGNORED on prompt and padding, by position and never by token id, since the padding
    token may equal the end token. No examples give one token without a label.
    """
    import torch

    examples = examples or [Example((0,), 1)]
    shape = len(examples), max(len(example.token_ids) for example in examples)
    batch = {
        "input_ids": torch.zeros(shape, dtype=torch.long),
        "attention_mask": torch.zeros(shape, dtype=torch.long),
        "labels": torch.full(shape, IGNORED),
    }
    for row, example in enumerate(examples):
        ids = torch.tensor(example.token_ids)
        response = slice(example.first_label, len(ids))
        batch["input_ids"][row, : len(ids)] = ids
        batch["attention_mask"][row, : len(ids)] = 1
        batch["labels"][row, response] = ids[response]
    return batch
