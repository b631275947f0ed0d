"""Which items meet in which optimiser step, and how they become tensors.

In: items of tokenised examples. Out: a plan of steps, and right-padded batches. Invariant: the
plan follows from its arguments alone, so every rank computes the same one and knows what a step
counts over all ranks and micro-batches before the first backward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
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
    where the model shall learn to stop. `ceilings`, where given, are nats of -log q a token, for
    objectives that push tokens away.
    """

    token_ids: tuple[int, ...]
    prompt_tokens: int
    ceilings: tuple[float, ...] = ()

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
        return replace(
            self, token_ids=self.token_ids[:max_tokens], ceilings=self.ceilings[:max_tokens]
        )


@dataclass(frozen=True)
class Item:
    """Examples that stand together in a batch, each as a part: (`chosen`, e1), (`rejected`, e2).

    `item[part]` are the examples of a part, in order; which parts there are is the objective's.
    """

    members: tuple[tuple[str, Example], ...]

    @classmethod
    def of(cls, **parts: Iterable[Example]) -> Item:
        """`Item.of(positive=[e1], negative=[e2, e3])`."""
        return cls(tuple((part, example) for part in parts for example in parts[part]))

    def __getitem__(self, part: str) -> tuple[Example, ...]:
        return tuple(example for name, example in self.members if name == part)

    @property
    def parts(self) -> frozenset[str]:
        """The parts that have an example."""
        return frozenset(part for part, _ in self.members)

    @property
    def plain(self) -> list[Any]:
        """All that it says, as a JSON value."""
        return [
            [part, [*example.token_ids], example.prompt_tokens, *example.ceilings]
            for part, example in self.members
        ]

    @property
    def length(self) -> int:
        """Tokens of all its examples."""
        return sum(len(example.token_ids) for _, example in self.members)

    def cut(self, max_tokens: int) -> Item:
        """The first `max_tokens` tokens of each example."""
        return Item(tuple((part, example.cut(max_tokens)) for part, example in self.members))


def texts(examples: Iterable[Example]) -> list[Item]:
    """An item of each example alone, as the part `text`."""
    return [Item.of(text=[example]) for example in examples]


def padded_tokens(items: Iterable[Item]) -> int:
    """Tokens of a batch of these items, padding and all parts included."""
    lengths: dict[str, list[int]] = {}
    for item in items:
        for part, example in item.members:
            lengths.setdefault(part, []).append(len(example.token_ids))
    return sum(len(rows) * max(rows) for rows in lengths.values())


@dataclass(frozen=True)
class Step:
    """One optimiser step: `micro_batches[rank][i]` are indices of items.

    Every rank has equally many micro-batches. One of them is empty where a step has fewer items
    than places; its rank still takes part in the collectives of the others.
    """

    micro_batches: tuple[tuple[tuple[int, ...], ...], ...]

    @property
    def indices(self) -> tuple[int, ...]:
        """All items of the step, over ranks and micro-batches."""
        return tuple(index for rank in self.micro_batches for micro in rank for index in micro)


@dataclass(frozen=True)
class Batching:
    """How items are shared out. batch_size: items of one step over all ranks, at most; an epoch's
    steps are equally large to within one. micro_batch_tokens: padded tokens of one micro-batch, at
    most, unless one item alone has more."""

    batch_size: int
    micro_batch_tokens: int
    world_size: int
    seed: int


def plan_steps(
    lengths: Sequence[int],
    batching: Batching,
    epochs: int,
    padded: Callable[[Sequence[int]], int] | None = None,
) -> list[Step]:
    """Cover the items once in each epoch, in batches of similar length.

    lengths: tokens of each item. padded: tokens of a micro-batch of these indices; by default those
    of items that are one sequence each.
    """
    batch_size = batching.batch_size

    def sequences(part: Sequence[int]) -> int:
        return len(part) * max(lengths[index] for index in part)

    n_steps = -(-len(lengths) // batch_size)
    steps = []
    for epoch in range(epochs):
        generator = np.random.default_rng([batching.seed, epoch])
        order = _roughly_by_length(np.asarray(lengths), batch_size, generator)
        batches = np.array_split(order, n_steps)
        steps += [
            _share(batches[place], padded or sequences, batching)
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


def _share(batch: np.ndarray, padded: Callable[[Sequence[int]], int], batching: Batching) -> Step:
    """As few micro-batches as their padded tokens allow, equally many a rank.

    Neighbours in length go to different ranks at the same time, so that no rank waits.
    """
    most, world_size = batching.micro_batch_tokens, batching.world_size
    accumulation = 0
    fits = False
    while not fits:
        accumulation += 1
        parts = [tuple(p.tolist()) for p in np.array_split(batch, accumulation * world_size)]
        fits = all(len(part) <= 1 or padded(part) <= most for part in parts)
    return Step(tuple(tuple(parts[rank::world_size]) for rank in range(world_size)))


def collate(items: Sequence[Item], parts: Iterable[str]) -> dict[str, dict[str, Any]]:
    """For each part `pad` of its examples, and `owner` (examples,): the item that each is from.

    Also a part without examples has its one token, so that every rank makes the same passes
    through the model; that row's owner is -1.
    """
    import torch

    batch = {}
    for part in parts:
        rows = [(owner, example) for owner, item in enumerate(items) for example in item[part]]
        batch[part] = pad([example for _, example in rows])
        batch[part]["owner"] = torch.tensor([owner for owner, _ in rows] or [-1])
    return batch


def pad(examples: Sequence[Example]) -> dict[str, Any]:
    """Right-padded int64 tensors (examples, longest): input_ids, attention_mask, labels.

    Labels are IGNORED on prompt and padding, by position and never by token id, since the padding
    token may equal the end token. No examples give one token of padding. Where examples have
    ceilings, also those: fp32, infinite where there is none.
    """
    import torch

    shape = max(len(examples), 1), max((len(example.token_ids) for example in examples), default=1)
    batch = {
        "input_ids": torch.zeros(shape, dtype=torch.long),
        "attention_mask": torch.zeros(shape, dtype=torch.long),
        "labels": torch.full(shape, IGNORED),
    }
    if any(example.ceilings for example in examples):
        batch["ceilings"] = torch.full(shape, float("inf"))
    for row, example in enumerate(examples):
        if example.ceilings:
            batch["ceilings"][row, : len(example.ceilings)] = torch.tensor(example.ceilings)
        ids = torch.tensor(example.token_ids)
        response = slice(example.first_label, len(ids))
        batch["input_ids"][row, : len(ids)] = ids
        batch["attention_mask"][row, : len(ids)] = 1
        batch["labels"][row, response] = ids[response]
    return batch
