"""From what the config names to contexts and passages with ids and splits.

In: a `ContextSource` or `TextSource`. Out: `Context`s in order of their hash, `Passage`s in the
order of their source. Invariant: ids are unique, no split that has a share is empty, and no two
splits of the source hold near-copies.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from rnr_dist.config.sources import ContextSource, TextSource
from rnr_dist.data.files import BUILTIN, HUB, files_of
from rnr_dist.data.formats import Extract, Opening, read_extracts, read_openings
from rnr_dist.data.rows import DataFile, file_rows, stem_of
from rnr_dist.data.splits import (
    Text,
    drop_cross_split_duplicates,
    normalised,
    position,
    split_of,
)
from rnr_dist.errors import InputError
from rnr_dist.types import Context, Passage, digest

SCORED = ("rtp", "civil_comments")  # formats whose rows bring a score of their prompt


def load_contexts(source: ContextSource, group: str) -> list[Context]:
    """The generation contexts of a source, in order of their hash.

    Exact copies (case and spacing aside) count once; of near-copies in two splits one is dropped,
    as in `drop_cross_split_duplicates`; `limit` keeps the first of a split. Raises InputError.
    """
    bounds = (source.min_prompt_toxicity, source.max_prompt_toxicity)
    if source.format not in SCORED and bounds != (0, 1):
        raise InputError(
            f"{source.source}: bounds of prompt toxicity need format rtp or civil_comments"
        )
    openings: dict[str, Opening] = {}
    for path in files_of(source.source, source.columns):
        for opening in read_openings(path, source.format, bounds):
            openings.setdefault(normalised(opening.text), opening)
    contexts = [
        Context(
            digest(key),
            opening.text,
            split_of(key, source.splits),
            group,
            opening.reference,
            opening.reference_toxicity,
            opening.messages,
        )
        for key, opening in openings.items()
    ]
    return _chosen(sorted(contexts, key=lambda context: position(context.text)), source)


def load_passages(source: TextSource) -> list[Passage]:
    """The passages of a source, in its order; their domain is the source's short name.

    Copies and `limit` are dealt with as for contexts. All passages of a WikiText article fall into
    one split, by the hash of its first line. Raises InputError.
    """
    extracts: dict[str, Extract] = {}
    for path in files_of(source.source, source.columns):
        for extract in read_extracts(path, source.format):
            extracts.setdefault(normalised(extract.text), extract)
    domain = _domain(source.source)
    passages = [
        Passage(digest(key), extract.text, split_of(extract.unit, source.splits), domain)
        for key, extract in extracts.items()
    ]
    return _chosen(passages, source)


def place_of(source: ContextSource, context: Context) -> str:
    """The file and the row that a context of a source stands in; "" where it is not found."""
    bounds = (source.min_prompt_toxicity, source.max_prompt_toxicity)
    for path in files_of(source.source, source.columns):
        for opening in read_openings(path, source.format, bounds):
            key = normalised(opening.text)
            # A conversation's text is what its model's template made of it.
            if digest(key) == context.id or key == normalised(context.text):
                return opening.place
    return ""


def nth_place(source: str, number: int) -> str:
    """The file and the row of a source's row of that number, 0 the first."""
    rows = (row for path in files_of(source) for row in file_rows(path))
    return next(islice(rows, number, None)).place


def _chosen(texts: list[Text], source: ContextSource | TextSource) -> list[Text]:
    """`texts` without near-copies across splits, each split cut to its limit, order kept."""
    if not texts:
        raise InputError(f"{source.source}: found no text that is asked for, expected some")
    [kept] = drop_cross_split_duplicates(texts)
    chosen: set[str] = set()
    for split, share in source.splits.items():
        members = [text for text in kept if text.split is split]
        if share > 0 and not members:
            raise InputError(
                f"{source.source}: splits.{split} has share {share:g} but got none of "
                f"{len(texts)} texts, near-copies aside; expected more texts or no such split"
            )
        members.sort(key=lambda text: position(text.text))
        chosen.update(text.id for text in members[: source.limit.get(split)])
    return [text for text in kept if text.id in chosen]


def _domain(source: str) -> str:
    if source.startswith(BUILTIN):
        return source.removeprefix(BUILTIN)
    if source.startswith(HUB):
        return source.removeprefix(HUB).partition(":")[0].rpartition("/")[2]
    return stem_of(DataFile(Path(), source))
