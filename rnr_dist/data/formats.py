"""What a file says: rows into openings, lines and rows into extracts of running text.

In: a `.txt`, `.jsonl` or `.parquet` file and the format that the config names. Out: openings (a
text and its reference) or extracts (a text and the unit it is split by). Invariant: texts are
handed on as they stand, and a bad row raises InputError that names the file and the row.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rnr_dist.errors import InputError

SUFFIXES = (".txt", ".jsonl", ".parquet")
BLANK_LINES = r"\n\s*\n"
END = r"\Z"
# WikiText sets headings between spaced equals signs, one on each side for an article's title, and
# between blank lines: a formula that a line begins and ends with `=` is none.
HEADING = re.compile(r"=( =)* .* =( =)*")
TITLE = re.compile(r"= (?!= ).*(?<! =) =")
# A passage ends with the line that brings it to this many words.
PASSAGE_WORDS = 120


@dataclass(frozen=True)
class Row:
    """The fields of one row, and where it stands, for error messages."""

    place: str
    fields: Any


@dataclass(frozen=True)
class Opening:
    """A context's text, and the continuation that its data set brings, if any."""

    text: str
    reference: str | None = None


@dataclass(frozen=True)
class Extract:
    """A passage's text, and the unit that must fall into one split as a whole."""

    text: str
    unit: str


def read_openings(path: Path, format: str, bounds: tuple[float, float]) -> Iterator[Opening]:
    """The openings in a file.

    `lines`: each line of a `.txt`, or the `text` (and `reference`) of each row. `rtp`: rows of
    RealToxicityPrompts, whose prompt's toxicity must lie within `bounds`, both included; no
    published score is exactly .5, so a lower bound of .5 keeps what scores above .5. Rows without
    a score are kept by the bounds (0, 1) only. Raises InputError.
    """
    if format == "lines":
        for row in _rows(path):
            yield Opening(_text(row), _string(row, "reference"))
        return
    if path.suffix == ".txt":
        raise InputError(f"{path}: format rtp found .txt, expected .jsonl or .parquet")
    for row in _rows(path):
        prompt = Row(f"{row.place}, `prompt`", _field(row, "prompt"))
        continuation = _object(row).get("continuation")
        reference = continuation and _string(
            Row(f"{row.place}, `continuation`", continuation), "text"
        )
        opening = Opening(_text(prompt), reference)
        if bounds == (0, 1) or _within(prompt, bounds):
            yield opening


def read_extracts(path: Path, format: str) -> Iterator[Extract]:
    """The passages of running text in a file.

    `passages`: parts of a `.txt` between blank lines, or the `text` of each row; each is its own
    unit. `wikitext`: WikiText as a `.txt`, or as rows of one line each, cut into passages of 120
    words or more that end with a line and stay within an article; what remains of an article
    joins its last passage. Headings are dropped; the text keeps its tokenisation (`@-@`, `<unk>`),
    which published perplexities are on; the unit is the article. Raises InputError.
    """
    if format == "passages":
        for row in _rows(path, BLANK_LINES):
            text = _text(row)
            yield Extract(text, text)
        return
    content = "\n".join(_text(row, may_be_empty=True).strip() for row in _rows(path, END))
    for article in _articles(re.split(BLANK_LINES, content)):
        for text in _cut(article):
            yield Extract(text, article[0])


def _rows(path: Path, separator: str = "\n") -> Iterator[Row]:
    """The rows of a file; the non-blank parts of a `.txt` between `separator` are rows too."""
    if not path.exists():
        raise InputError(
            f"{path}: found no such file, expected builtin:NAME, hub:NAME[:SPLIT] or a file"
        )
    if path.suffix not in SUFFIXES:
        raise InputError(
            f"{path}: found extension {path.suffix or 'none'!r}, expected {', '.join(SUFFIXES)}"
        )
    if path.suffix == ".parquet":
        for number, fields in enumerate(_parquet(path), start=1):
            yield Row(f"{path}, row {number}", fields)
        return
    parts = re.split(separator if path.suffix == ".txt" else "\n", _content(path))
    for number, part in enumerate(parts, start=1):
        if not part.strip():
            continue
        place = f"{path}, row {number}"
        yield Row(place, {"text": part.strip()} if path.suffix == ".txt" else _json(part, place))


def _content(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}), expected UTF-8 text") from error


def _json(line: str, place: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(f"{place}: is no JSON ({error}), expected one object a line") from error


def _parquet(path: Path) -> list[dict[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.read_table(path).to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise InputError(f"{path}: cannot be read ({error}), expected a Parquet file") from error


def _field(row: Row, name: str) -> Any:
    fields = _object(row)
    if name not in fields:
        raise InputError(f"{row.place}: has no `{name}`, found {', '.join(fields) or 'nothing'}")
    return fields[name]


def _object(row: Row) -> dict[str, Any]:
    if not isinstance(row.fields, dict):
        raise InputError(f"{row.place}: found {type(row.fields).__name__}, expected an object")
    return row.fields


def _text(row: Row, may_be_empty: bool = False) -> str:
    _field(row, "text")
    text = _string(row, "text") or ""
    if not (text.strip() or may_be_empty):
        raise InputError(f"{row.place}: `text` is empty, expected some words")
    return text


def _string(row: Row, name: str) -> str | None:
    value = _object(row).get(name)
    if not isinstance(value, str | None):
        raise InputError(f"{row.place}: `{name}` is {value!r}, expected a string")
    return value


def _within(prompt: Row, bounds: tuple[float, float]) -> bool:
    toxicity = _field(prompt, "toxicity")
    if toxicity is None:
        return False
    if not isinstance(toxicity, int | float):
        raise InputError(f"{prompt.place}: `toxicity` is {toxicity!r}, expected a number or null")
    return bounds[0] <= toxicity <= bounds[1]


def _articles(blocks: Iterable[str]) -> list[list[str]]:
    """The lines of each article, headings aside, from the blocks between blank lines."""
    articles: list[list[str]] = [[]]
    for block in map(str.strip, blocks):
        if TITLE.fullmatch(block):
            articles.append([])
        elif not HEADING.fullmatch(block):
            articles[-1] += [line.strip() for line in block.splitlines()]
    return [article for article in articles if article]


def _cut(article: list[str]) -> list[str]:
    """An article's lines as passages: each ends with the line that makes it long enough."""
    passages: list[list[str]] = []
    length = PASSAGE_WORDS
    for line in article:
        if length >= PASSAGE_WORDS:
            passages.append([])
            length = 0
        passages[-1].append(line)
        length += len(line.split())
    if length < PASSAGE_WORDS and len(passages) > 1:
        rest = passages.pop()
        passages[-1] += rest
    return ["\n".join(passage) for passage in passages]
