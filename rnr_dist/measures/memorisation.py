"""How much of a sequence a model knows by heart: EL_n and MA (ICU, Eq. 7 to 9), exactly and fast.

In: sequences and a reader of a model. Out: `Recall` of each. Invariant: equal to the
loop that generates from every prefix, but for ties of the arg max; one teacher-forced pass and one
decode a mismatch do: the greedy output from a prefix is the sequence up to the first position whose
arg max is another token, and what follows there is shared by all prefixes before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from rnr_dist.types import TokenSequence

Ids = tuple[int, ...]
# Which prefixes extraction is read for: all of Eq. 7, those from the sequence's own on, or none.
Prefixes = Literal["all", "given", "none"]


@dataclass(frozen=True)
class Counting:
    """How extraction is counted.

    n: of EL_n. denominator: Eq. 8 divides by the generated n-grams, the reference code by the
    label's. eos: token that ends a generation.
    """

    n: int
    denominator: Literal["generated", "label"] = "generated"
    eos: int | None = None


class ModelReader(Protocol):
    """A model as the measures see it: a generator pool, or a model under training."""

    def matches(self, sequences: Sequence[Ids]) -> list[np.ndarray]:
        """For each of T tokens (T - 1,) bool: whether token j + 1 is the arg max after j + 1."""
        ...

    def greedy(self, starts: Sequence[tuple[Ids, int, int]]) -> list[Ids]:
        """Greedy continuations: (sequence, tokens of it that are given, new tokens at most)."""
        ...


@dataclass(frozen=True)
class Recall:
    """What a model recalls of one sequence.

    matches: as of `ModelReader.matches`. overlaps: (prefixes,) OVERLAP_n by length of the prefix,
    `prefixes` says which. continuation: greedy, after the sequence's own prefix.
    """

    matches: np.ndarray
    prefixes: tuple[int, ...]
    overlaps: np.ndarray
    continuation: Ids

    @property
    def extraction(self) -> float:
        """EL_n over the prefixes that were asked for."""
        return float(self.overlaps.mean()) if len(self.overlaps) else 0.0

    def extraction_within(self, first: int, last: int) -> float:
        """EL_n over prefixes of `first` to `last` tokens, both included; nan where none is."""
        chosen = [first <= length <= last for length in self.prefixes]
        return float(self.overlaps[chosen].mean()) if any(chosen) else float("nan")

    def accuracy(self, first: int = 1) -> float:
        """MA over the tokens from `first` on (0-based; nothing predicts token 0)."""
        return accuracy(self.matches, first)


def accuracy(matches: np.ndarray, first: int = 1) -> float:
    """MA of one sequence over its tokens from `first` on."""
    return float(matches[max(first, 1) - 1 :].mean())


def recall(
    reader: ModelReader,
    sequences: Sequence[TokenSequence],
    counting: Counting,
    prefixes: Prefixes = "all",
    matches: Sequence[np.ndarray] | None = None,
) -> list[Recall]:
    """Recall of each sequence, and its continuation after its own prefix.

    prefixes: of 1 to T - n tokens (Eq. 7), or only the sequence's own and longer ones. matches: as
    `reader.matches` gives them, where they are known already.
    """
    ids = [sequence.token_ids for sequence in sequences]
    matches = reader.matches(ids) if matches is None else matches
    lengths = [_lengths(sequence, counting.n, prefixes) for sequence in sequences]
    starts = [
        (place, found)
        for place, (sequence, match) in enumerate(zip(sequences, matches, strict=True))
        for found in mismatches_needed(match, [*lengths[place], sequence.prefix_tokens])
    ]
    answers = reader.greedy([(ids[place], at, len(ids[place]) - at) for place, at in starts])
    tails: list[dict[int, Ids]] = [{} for _ in sequences]
    for (place, at), answer in zip(starts, answers, strict=True):
        tails[place][at] = answer
    read = []
    for place, (one, match, tail) in enumerate(zip(ids, matches, tails, strict=True)):
        outputs = [output_from(one, match, tail, i, counting.eos) for i in lengths[place]]
        overlaps = np.array(
            [
                overlap(output, one[i:], counting.n, counting.denominator)
                for i, output in zip(lengths[place], outputs, strict=True)
            ]
        )
        t0 = sequences[place].prefix_tokens
        said = output_from(one, match, tail, t0, counting.eos)
        read.append(Recall(match, lengths[place], overlaps, said))
    return read


def _lengths(sequence: TokenSequence, n: int, prefixes: Prefixes) -> tuple[int, ...]:
    if prefixes == "none":
        return ()
    first = 1 if prefixes == "all" else sequence.prefix_tokens
    return tuple(range(first, len(sequence.token_ids) - n + 1))


def mismatches_needed(match: np.ndarray, prefixes: Iterable[int]) -> list[int]:
    """Positions of the first mismatch at or after each prefix length, each once."""
    positions = np.flatnonzero(~match) + 1
    at = np.searchsorted(positions, sorted(set(prefixes)))
    return [int(positions[k]) for k in np.unique(at[at < len(positions)])]


def output_from(
    ids: Ids, match: np.ndarray, tails: Mapping[int, Ids], length: int, eos: int | None = None
) -> Ids:
    """The greedy output after the first `length` tokens, of at most the tokens that are left."""
    at = mismatches_needed(match, [length])
    output = ids[length : at[0]] + tails[at[0]] if at else ids[length:]
    return output[: output.index(eos) + 1] if eos in output else output


def overlap(
    generated: Ids, label: Ids, n: int, denominator: Literal["generated", "label"] = "generated"
) -> float:
    """OVERLAP_n (Eq. 8): share of the generated n-grams that are the label's; 0 where none is."""
    found, wanted = grams(generated, n), set(grams(label, n))
    total = len(found) if denominator == "generated" else max(0, len(label) - n + 1)
    return sum(gram in wanted for gram in found) / total if total else 0.0


def grams(ids: Ids, n: int) -> list[Ids]:
    return [ids[place : place + n] for place in range(len(ids) - n + 1)]


def token_nats(
    sequences: Sequence[Sequence[int]], log_likelihoods: Sequence[Sequence[float]]
) -> dict[int, float]:
    """{token id: mean -log q} over sequences, of all their tokens but the first."""
    found: dict[int, list[float]] = {}
    for token_ids, values in zip(sequences, log_likelihoods, strict=True):
        for token, value in zip(token_ids[1:], values, strict=True):
            found.setdefault(token, []).append(-value)
    return {token: float(np.mean(nats)) for token, nats in sorted(found.items())}
