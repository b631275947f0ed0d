"""From what the config names to sequences of token ids: forget sequences, pools, never-seen ones.

In: a `SequenceSource` and a tokenizer. Out: `TokenSequence`s in the order of their source.
Invariant: token ids are made once and kept; what is too short, too long, empty or there twice
raises InputError that names the row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rnr_dist.config.sources import SequenceSource
from rnr_dist.data.encoding import encoded
from rnr_dist.data.files import files_of
from rnr_dist.data.formats import read_records
from rnr_dist.data.records import record_texts
from rnr_dist.data.rows import DataFile, stem_of, suffix_of
from rnr_dist.errors import InputError, shown
from rnr_dist.types import TokenSequence, digest

RECORDS = "builtin:records"


def load_sequences(
    source: SequenceSource, tokenizer: Any, prefix_tokens: int, max_tokens: int
) -> list[TokenSequence]:
    """The sequences of a source, cut to `max_tokens` after `source.skip_tokens`.

    prefix_tokens: t0, the tokens of each that a model is given; a sequence needs more than that.
    """
    sequences: list[TokenSequence] = []
    places: dict[tuple[int, ...], str] = {}
    for place, corpus, ids in _rows(source, tokenizer):
        if source.count is not None and len(sequences) == source.count:
            break
        kept = ids[source.skip_tokens :]
        if not kept:
            raise InputError(f"{place}: is empty after {source.skip_tokens} skipped tokens")
        if len(kept) <= prefix_tokens:
            raise InputError(
                f"{place}: has {len(kept)} tokens after {source.skip_tokens} skipped; expected "
                f"more than task.prefix_tokens {prefix_tokens}"
            )
        if len(kept) > max_tokens and not source.cut:
            raise InputError(
                f"{place}: has {len(kept)} tokens; expected at most task.max_tokens {max_tokens}, "
                "or `cut: true`"
            )
        kept = kept[:max_tokens]
        if kept in places:
            raise InputError(f"{place}: is the same sequence as {places[kept]}")
        places[kept] = place
        text = tokenizer.decode(kept)
        sequences.append(TokenSequence(digest(list(kept)), corpus, kept, text, prefix_tokens))
    wanted = source.count or 1
    if len(sequences) < wanted:
        raise InputError(f"{source.source}: found {len(sequences)} sequences, expected {wanted}")
    return sequences


def check_disjoint(named: Mapping[str, Sequence[TokenSequence]]) -> None:
    """Raises InputError where two sets hold the same sequence; `named` goes by config key."""
    seen: dict[str, str] = {}
    for key, sequences in named.items():
        for sequence in sequences:
            if seen.setdefault(sequence.id, key) != key:
                raise InputError(
                    f"{key}: holds a sequence of {seen[sequence.id]} too ({sequence.text[:40]!r}); "
                    "expected sets without one in common"
                )


def _rows(source: SequenceSource, tokenizer: Any) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """(place, corpus, token ids) of each row."""
    if source.source == RECORDS:
        count = source.count or 32
        for number, (form, text) in enumerate(record_texts(source.first, count), source.first):
            yield f"{RECORDS} {number}", form, encoded(tokenizer, text)
        return
    for path in files_of(source.source, source.columns):
        if suffix_of(path) == ".npy":
            yield from _array(path, tokenizer)
            continue
        for row in read_records(path):
            if row.token_ids is not None:
                yield row.place, row.corpus, _known(row.token_ids, tokenizer, row.place)
            else:
                yield row.place, row.corpus, encoded(tokenizer, row.text)


def _array(file: DataFile, tokenizer: Any) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """Rows of a 2-D integer array, as the extraction benchmark has them."""
    import numpy as np

    try:
        # Mapped: a header that promises more than there is takes no memory.
        ids = np.load(file.path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # the header is parsed as Python, whose own errors come through
        raise InputError(
            f"{file}: cannot be read ({type(error).__name__}: {shown(error, str)}), expected a "
            ".npy of ids"
        ) from error
    if not isinstance(ids, np.ndarray):
        raise InputError(f"{file}: found an archive of arrays, expected a .npy of ids")
    if ids.ndim != 2 or not np.issubdtype(ids.dtype, np.integer):
        raise InputError(
            f"{file}: found {ids.dtype} of shape {ids.shape}, expected integers (sequences, tokens)"
        )
    for number, row in enumerate(ids, start=1):
        place = f"{file}, row {number}"
        yield place, stem_of(file), _known(tuple(int(token) for token in row), tokenizer, place)


def _known(ids: tuple[int, ...], tokenizer: Any, place: str) -> tuple[int, ...]:
    for token in ids:
        if not 0 <= token < len(tokenizer):
            raise InputError(f"{place}: found token {token}; expected 0 to {len(tokenizer) - 1}")
    return ids
