"""From what the config names to contexts and passages with ids and splits.

In: a `ContextSource` or `TextSource`. Out: `Context`s in order of their hash, `Passage`s in the
order of their source. Invariant: ids are unique, no split that has a share is empty, and no two
splits of the source hold near-copies.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path

from rnr_dist.config.sources import ContextSource, TextSource
from rnr_dist.data.formats import Extract, Opening, read_extracts, read_openings
from rnr_dist.data.rows import file_rows
from rnr_dist.data.splits import (
    Text,
    drop_cross_split_duplicates,
    normalised,
    position,
    split_of,
)
from rnr_dist.errors import InputError
from rnr_dist.types import Context, Passage, digest

BUILTIN = "builtin:"
BUILTIN_FOLDER = Path(__file__).parent / "builtin"
# Name -> its files.
BUILTIN_TEXTS = {
    "challenging": ("challenging_a.txt", "challenging_b.txt"),
    "ordinary": ("ordinary.txt",),
    "expository": ("expository_a.txt", "expository_b.txt"),
    "narrative": ("narrative.txt",),
    "practical": ("practical.txt",),
    "external": ("external.jsonl",),
    "choices": ("choices.jsonl",),
    "dialogues": ("dialogues.jsonl",),
}
HUB = "hub:"
HUB_SUFFIXES = (".jsonl", ".parquet")


def load_contexts(source: ContextSource, group: str) -> list[Context]:
    """The generation contexts of a source, in order of their hash.

    Exact copies (case and spacing aside) count once; of near-copies in two splits one is dropped,
    as in `drop_cross_split_duplicates`; `limit` keeps the first of a split. Raises InputError.
    """
    bounds = (source.min_prompt_toxicity, source.max_prompt_toxicity)
    if source.format == "lines" and bounds != (0, 1):
        raise InputError(
            f"{source.source}: bounds of prompt toxicity need format rtp or civil_comments"
        )
    openings: dict[str, Opening] = {}
    for path in files_of(source.source):
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
    for path in files_of(source.source):
        for extract in read_extracts(path, source.format):
            extracts.setdefault(normalised(extract.text), extract)
    domain = _domain(source.source)
    passages = [
        Passage(digest(key), extract.text, split_of(extract.unit, source.splits), domain)
        for key, extract in extracts.items()
    ]
    return _chosen(passages, source)


def place_of(source: ContextSource, text: str) -> str:
    """The file and the row that a context of a source stands in; "" where it is not found."""
    bounds = (source.min_prompt_toxicity, source.max_prompt_toxicity)
    for path in files_of(source.source):
        for opening in read_openings(path, source.format, bounds):
            if normalised(opening.text) == normalised(text):
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


def files_of(source: str) -> list[Path]:
    """The files that `builtin:NAME`, `hub:NAME[:SPLIT]` or a path stands for."""
    if source.startswith(BUILTIN):
        name = source.removeprefix(BUILTIN)
        if name not in BUILTIN_TEXTS:
            raise InputError(
                f"{source}: no built-in text is called {name!r}; expected one of "
                f"{', '.join(BUILTIN_TEXTS)}"
            )
        return [BUILTIN_FOLDER / file for file in BUILTIN_TEXTS[name]]
    if source.startswith(HUB):
        name, _, split = source.removeprefix(HUB).partition(":")
        return _hub_files(name, split)
    try:
        return [Path(source).expanduser()]
    except RuntimeError as error:  # ~NAME of nobody
        raise InputError(f"{source}: {error}; expected a file") from error


def _hub_files(name: str, split: str) -> list[Path]:
    """The `.parquet` or `.jsonl` files of a hub data set whose path or name begins with `split`.

    A data set of several configurations has a folder for each; then `split` must say which, as in
    `wikitext-2-v1/test`. Downloads what is missing from the hub's cache.
    """
    import huggingface_hub

    patterns = [f"{start}{split}*{suffix}" for start in ("", "*/") for suffix in HUB_SUFFIXES]
    try:
        folder = Path(
            huggingface_hub.snapshot_download(name, repo_type="dataset", allow_patterns=patterns)
        )
    except Exception as error:  # the client's own, its HTTP library's and the system's errors
        reason = str(error).strip().partition("\n")[0]
        raise InputError(
            f"hub:{name}: cannot be fetched ({type(error).__name__}: {reason}), "
            "expected a public data set or one in the hub's cache"
        ) from error
    # The cache may hold files of earlier downloads too.
    names = (path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*.*")))
    wanted = [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]
    folders = {name.rpartition("/")[0] for name in wanted}
    if not wanted:
        raise InputError(f"hub:{name}: found no file {split}*.parquet or {split}*.jsonl")
    if len(folders) > 1:
        raise InputError(
            f"hub:{name}: found files in {', '.join(sorted(folders))}; expected one folder, "
            f"as in hub:{name}:{min(folders)}/{split}"
        )
    return [folder / name for name in wanted]


def _domain(source: str) -> str:
    if source.startswith(BUILTIN):
        return source.removeprefix(BUILTIN)
    if source.startswith(HUB):
        return source.removeprefix(HUB).partition(":")[0].rpartition("/")[2]
    return Path(source).stem
