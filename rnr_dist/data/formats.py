"""What a file says: rows into openings, lines and rows into extracts of running text.

In: a `.txt`, `.jsonl`, `.csv` or `.parquet` file and the format that the config names. Out:
openings (a text and its reference) or extracts (a text and the unit it is split by). Invariant:
texts are handed on as they stand, and a bad row raises InputError that names the file and the row.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rnr_dist.errors import InputError

SUFFIXES = (".txt", ".jsonl", ".csv", ".parquet")
# What a published data set of that format can be a file of.
FORMAT_SUFFIXES = {
    "rtp": (".jsonl", ".parquet"),
    "civil_comments": (".jsonl", ".csv", ".parquet"),
}
BLANK_LINES = r"\n\s*\n"
END = r"\Z"
# WikiText sets headings between spaced equals signs, one on each side for an article's title, and
# between blank lines: a formula that a line begins and ends with `=` is none.
HEADING = re.compile(r"=( =)* .* =( =)*")
TITLE = re.compile(r"= (?!= ).*(?<! =) =")
# A passage ends with the line that brings it to this many words.
PASSAGE_WORDS = 120
# Half of a comment under this many words is no opening that says anything.
COMMENT_WORDS = 8
# The hub keeps scores as float32, in which .9 is less than .9.
SCORE_ROUNDING = 1e-7
# CivilComments' column names: as the hub has it, and as the competition on it had them.
COMMENT_TEXT, COMMENT_TOXICITY = ("text", "comment_text"), ("toxicity", "target")


@dataclass(frozen=True)
class FileRow:
    """The fields of one row, and where it stands, for error messages."""

    place: str
    fields: Any


@dataclass(frozen=True)
class Record:
    """A sequence's text, or its token ids, the corpus that it is from, and where it stands."""

    place: str
    corpus: str
    text: str
    token_ids: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Opening:
    """A context's text, and the continuation that its data set brings, scored, if any."""

    text: str
    reference: str | None = None
    reference_toxicity: float | None = None


@dataclass(frozen=True)
class Extract:
    """A passage's text, and the unit that must fall into one split as a whole."""

    text: str
    unit: str


def read_openings(path: Path, format: str, bounds: tuple[float, float]) -> Iterator[Opening]:
    """The openings in a file.

    `lines`: each line of a `.txt`, or the `text` (and `reference`) of each row. `rtp`: rows of
    RealToxicityPrompts, whose prompt's toxicity must lie within `bounds`, both included; no
    published score is exactly .5, so a lower bound of .5 keeps what scores above .5.
    `civil_comments`: rows of CivilComments, each comment cut in two (`_halves`), the whole
    comment's toxicity within `bounds`. Rows without a score are kept by the bounds (0, 1) only.
    Raises InputError.
    """
    suffixes = FORMAT_SUFFIXES.get(format, SUFFIXES)
    if path.suffix in SUFFIXES and path.suffix not in suffixes:
        *others, last = suffixes
        raise InputError(
            f"{path}: format {format} found {path.suffix}, expected {', '.join(others)} or {last}"
        )
    if format == "lines":
        for row in file_rows(path):
            yield Opening(_text(row), _string(row, "reference"))
        return
    read = _rtp if format == "rtp" else _comment
    for row in file_rows(path):
        opening, toxicity = read(row, bounds != (0, 1))
        if opening and (bounds == (0, 1) or _within(toxicity, bounds)):
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
        for row in file_rows(path, BLANK_LINES):
            text = _text(row)
            yield Extract(text, text)
        return
    content = "\n".join(_text(row, may_be_empty=True).strip() for row in file_rows(path, END))
    for article in _articles(re.split(BLANK_LINES, content)):
        for text in _cut(article):
            yield Extract(text, article[0])


def read_records(path: Path) -> Iterator[Record]:
    """The sequences in a file: the `text` or `token_ids` of each row, and its `corpus` if any.

    The extraction benchmark's CSV (doc_id, corpus, text) is one. Raises InputError.
    """
    for row in file_rows(path):
        corpus = _string(row, "corpus") or path.stem
        ids = _object(row).get("token_ids")
        if ids is None:
            yield Record(row.place, corpus, _text(row))
        elif isinstance(ids, list) and all(isinstance(token, int) for token in ids):
            yield Record(row.place, corpus, "", tuple(ids))
        else:
            raise InputError(f"{row.place}: `token_ids` is no list of integers")


def _rtp(row: FileRow, scored: bool) -> tuple[Opening, float | None]:
    """The opening in a row of RealToxicityPrompts, and the prompt's toxicity.

    Only where it must be `scored` a prompt has to have a `toxicity`, be it null.
    """
    prompt = FileRow(f"{row.place}, `prompt`", _field(row, "prompt"))
    opening = Opening(_text(prompt))
    if found := _object(row).get("continuation"):
        continuation = FileRow(f"{row.place}, `continuation`", found)
        reference = _string(continuation, "text")
        opening = Opening(opening.text, reference, _score(continuation, "toxicity"))
    if scored:
        _field(prompt, "toxicity")
    return opening, _score(prompt, "toxicity")


def _comment(row: FileRow, scored: bool) -> tuple[Opening | None, float | None]:
    """The opening in a row of CivilComments, None in a short one, and the comment's toxicity.

    That toxicity is the reference's too: no half of a comment has a score of its own. `scored` as
    for `_rtp`.
    """
    toxicity = _score(row, _either(row, COMMENT_TOXICITY, needed=scored))
    # The published files hold empty comments too: they are short ones.
    halves = _halves(_text(row, _either(row, COMMENT_TEXT), may_be_empty=True))
    return (Opening(*halves, toxicity) if halves else None), toxicity


def _halves(comment: str) -> tuple[str, str] | None:
    """A comment's first words, half of them rounded up, and the rest; None under COMMENT_WORDS.

    Words are what stands between white space. The rest begins with the white space before its
    first word, so that the two in a row are the comment, the space around it aside.
    """
    comment = comment.strip()
    ends = [word.end() for word in re.finditer(r"\S+", comment)]
    if len(ends) < COMMENT_WORDS:
        return None
    middle = ends[(len(ends) + 1) // 2 - 1]
    return comment[:middle], comment[middle:]


def file_rows(path: Path, separator: str = "\n") -> Iterator[FileRow]:
    """The rows of a file; the non-blank parts of a `.txt` between `separator` are rows too."""
    if not path.exists():
        raise InputError(
            f"{path}: found no such file, expected builtin:NAME, hub:NAME[:SPLIT] or a file"
        )
    if path.suffix not in SUFFIXES:
        raise InputError(
            f"{path}: found extension {path.suffix or 'none'!r}, expected {', '.join(SUFFIXES)}"
        )
    if path.suffix in (".parquet", ".csv"):
        records = _parquet(path) if path.suffix == ".parquet" else _csv(path)
        for number, fields in enumerate(records, start=1):
            yield FileRow(f"{path}, row {number}", fields)
        return
    parts = re.split(separator if path.suffix == ".txt" else "\n", _content(path))
    for number, part in enumerate(parts, start=1):
        if not part.strip():
            continue
        place = f"{path}, row {number}"
        yield FileRow(
            place, {"text": part.strip()} if path.suffix == ".txt" else _json(part, place)
        )


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


def _parquet(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            # By batches: CivilComments' two million rows as objects would take gigabytes.
            for batch in file.iter_batches():
                yield from batch.to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise InputError(f"{path}: cannot be read ({error}), expected a Parquet file") from error


def _csv(path: Path) -> Iterator[dict[str, Any]]:
    """The records under a header line, all as strings; an empty field is None."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file, strict=True)
            header = next(rows, [])
            for number, values in enumerate(filter(None, rows), start=1):
                if len(values) != len(header):
                    raise InputError(
                        f"{path}, row {number}: found {len(values)} fields, expected "
                        f"{len(header)} as in the header"
                    )
                yield dict(zip(header, (value or None for value in values), strict=True))
    except csv.Error as error:
        raise InputError(
            f"{path}, line {rows.line_num}: is no CSV ({error}), expected quotes in pairs"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}), expected UTF-8 text") from error


def _field(row: FileRow, name: str) -> Any:
    fields = _object(row)
    if name not in fields:
        raise InputError(f"{row.place}: has no `{name}`, found {', '.join(fields) or 'nothing'}")
    return fields[name]


def _object(row: FileRow) -> dict[str, Any]:
    if not isinstance(row.fields, dict):
        raise InputError(f"{row.place}: found {type(row.fields).__name__}, expected an object")
    return row.fields


def _either(row: FileRow, names: tuple[str, str], needed: bool = True) -> str:
    """The first of the names that the row has a field of; the first one where it need have none."""
    fields = _object(row)
    for name in names:
        if name in fields:
            return name
    if needed:
        raise InputError(
            f"{row.place}: has no `{names[0]}` or `{names[1]}`, found "
            f"{', '.join(fields) or 'nothing'}"
        )
    return names[0]


def _text(row: FileRow, name: str = "text", may_be_empty: bool = False) -> str:
    _field(row, name)
    text = _string(row, name) or ""
    if not (text.strip() or may_be_empty):
        raise InputError(f"{row.place}: `{name}` is empty, expected some words")
    return text


def _string(row: FileRow, name: str) -> str | None:
    value = _object(row).get(name)
    if not isinstance(value, str | None):
        raise InputError(f"{row.place}: `{name}` is {value!r}, expected a string")
    return value


def _score(row: FileRow, name: str) -> float | None:
    """A score in [0, 1], if the row has one; a CSV's is a number's text."""
    value = _object(row).get(name)
    if value is None:
        return None
    try:
        score = float(value)
    except (TypeError, ValueError):
        raise InputError(f"{row.place}: `{name}` is {value!r}, expected a number or null") from None
    if not 0 <= score <= 1:
        raise InputError(f"{row.place}: `{name}` is {value!r}, expected 0 to 1")
    return score


def _within(toxicity: float | None, bounds: tuple[float, float]) -> bool:
    """Whether there is a score and the bounds include it."""
    low, high = bounds
    return toxicity is not None and low - SCORE_ROUNDING <= toxicity <= high + SCORE_ROUNDING


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
