"""How much of a sequence a model knows by heart: EL_n and MA (ICU, Eq. 7 to 9), exactly and fast.

In: sequences of token ids and a reader of a model. Out: `Recall` of each. Invariant: equal to the
loop that generates from every prefix, but for ties of the arg max; one teacher-forced pass and one
decode a mismatch do: the greedy output from a prefix is the sequence up to the first position whose
arg max is another token, and what follows there is shared by all prefixes before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

Ids = tuple[int, ...]
Denominator = Literal["generated", "label"]


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
    `prefixes` says which. continuation: greedy, from the first t0 tokens.
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
    sequences: Sequence[Ids],
    t0: int,
    n: int,
    first: int = 1,
    denominator: Denominator = "generated",
    eos: int | None = None,
    matches: Sequence[np.ndarray] | None = None,
) -> list[Recall]:
    """Recall of each sequence for prefixes of `first` to T - n tokens (Eq. 7's 1 to T - n).

    denominator: Eq. 8 divides by the generated n-grams, the reference code by the label's. eos:
    token that ends a generation. matches: `reader.matches(sequences)` where it is known already.
    """
    matches = reader.matches(sequences) if matches is None else matches
    starts = [
        (place, found)
        for place, (ids, match) in enumerate(zip(sequences, matches, strict=True))
        for found in mismatches_needed(match, [*range(first, len(ids) - n + 1), t0])
    ]
    answers = reader.greedy(
        [(sequences[place], at, len(sequences[place]) - at) for place, at in starts]
    )
    tails: list[dict[int, Ids]] = [{} for _ in sequences]
    for (place, at), answer in zip(starts, answers, strict=True):
        tails[place][at] = answer
    read = []
    for ids, match, tail in zip(sequences, matches, tails, strict=True):
        prefixes = tuple(range(first, len(ids) - n + 1))
        outputs = {length: output_from(ids, match, tail, length, eos) for length in prefixes}
        overlaps = np.array([overlap(outputs[i], ids[i:], n, denominator) for i in prefixes])
        read.append(Recall(match, prefixes, overlaps, output_from(ids, match, tail, t0, eos)))
    return read


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


def overlap(generated: Ids, label: Ids, n: int, denominator: Denominator = "generated") -> float:
    """OVERLAP_n (Eq. 8): share of the generated n-grams that are the label's; 0 where none is."""
    found, wanted = grams(generated, n), set(grams(label, n))
    total = len(found) if denominator == "generated" else max(0, len(label) - n + 1)
    return sum(gram in wanted for gram in found) / total if total else 0.0


def grams(ids: Ids, n: int) -> list[Ids]:
    return [ids[place : place + n] for place in range(len(ids) - n + 1)]


def naive_overlaps(
    reader: ModelReader,
    ids: Ids,
    n: int,
    first: int = 1,
    denominator: Denominator = "generated",
    eos: int | None = None,
) -> np.ndarray:
    """(prefixes,) OVERLAP_n by generating from every prefix: what `recall` must equal."""
    prefixes = range(first, len(ids) - n + 1)
    answers = reader.greedy([(ids, length, len(ids) - length) for length in prefixes])
    cut = [a[: a.index(eos) + 1] if eos in a else a for a in answers]
    pairs = zip(cut, prefixes, strict=True)
    return np.array([overlap(answer, ids[i:], n, denominator) for answer, i in pairs])


def auc(lower: np.ndarray, higher: np.ndarray) -> float:
    """P(one of `lower` is below one of `higher`), ties a half: .5 where they can't be told apart.

    With NLLs of forget sequences as `lower` and of never-seen ones as `higher`, 1 means that every
    forget sequence is better known than every never-seen one.
    """
    less = (lower[:, None] < higher[None, :]).mean()
    equal = (lower[:, None] == higher[None, :]).mean()
    return float(less + equal / 2)
