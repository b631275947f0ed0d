"""What a file says: rows into openings, lines and rows into extracts of running text.

In: a file of `rows` and the format that the config names. Out:
openings (a text and its reference) or extracts (a text and the unit it is split by). Invariant:
texts are handed on as they stand, and a bad row raises InputError that names the file and the row.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from rnr_dist.data.conversations import answer_of, conversation_of, spoken
from rnr_dist.data.rows import (
    SUFFIXES,
    File,
    FileRow,
    either_of,
    field_of,
    file_rows,
    object_of,
    score_of,
    stem_of,
    string_of,
    suffix_of,
    text_of,
    value_of,
)
from rnr_dist.data.words import WORD, words
from rnr_dist.errors import InputError
from rnr_dist.types import Message

# What a published data set of that format can be a file of.
FORMAT_SUFFIXES = {
    "rtp": (".jsonl", ".parquet"),
    "civil_comments": (".jsonl", ".csv", ".parquet"),
    "messages": (".jsonl", ".json", ".parquet"),
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
class Record:
    """A sequence's text, or its token ids, the corpus that it is from, and where it stands."""

    place: str
    corpus: str
    text: str
    token_ids: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Opening:
    """A context's text, and the continuation that its data set brings, scored, if any.

    messages: the turns of a conversation, whose text is how they would be written down without a
    template. place: the file and the row that it stands in.
    """

    text: str
    reference: str | None = None
    reference_toxicity: float | None = None
    messages: tuple[Message, ...] = ()
    place: str = field(default="", compare=False)


@dataclass(frozen=True)
class Extract:
    """A passage's text, and the unit that must fall into one split as a whole."""

    text: str
    unit: str


def read_openings(path: File, format: str, bounds: tuple[float, float]) -> Iterator[Opening]:
    """The openings in a file.

    `lines`: each line of a `.txt`, or the `text` (and `reference`) of each row. `messages`: the
    conversation of each row up to the assistant's last turn, which is its reference. `rtp`: rows of
    RealToxicityPrompts, whose prompt's toxicity must lie within `bounds`, both included; no
    published score is exactly .5, so a lower bound of .5 keeps what scores above .5.
    `civil_comments`: rows of CivilComments, each comment cut in two (`_halves`), the whole
    comment's toxicity within `bounds`. Rows without a score are kept by the bounds (0, 1) only.
    Raises InputError.
    """
    suffixes = FORMAT_SUFFIXES.get(format, SUFFIXES)
    suffix = suffix_of(path)
    if suffix in SUFFIXES and suffix not in suffixes:
        *others, last = suffixes
        raise InputError(
            f"{path}: format {format} found {suffix}, expected {', '.join(others)} or {last}"
        )
    if format == "lines":
        for row in file_rows(path):
            yield Opening(text_of(row), string_of(row, "reference"), place=row.place)
        return
    if format == "messages":
        for row in file_rows(path):
            turns, reference = conversation_of(row)
            yield Opening(spoken(turns), reference or answer_of(row), None, turns, row.place)
        return
    read = _rtp if format == "rtp" else _comment
    for row in file_rows(path):
        opening, toxicity = read(row, bounds != (0, 1))
        if opening and (bounds == (0, 1) or _within(toxicity, bounds)):
            yield replace(opening, place=row.place)


def read_extracts(path: File, format: str) -> Iterator[Extract]:
    """The passages of running text in a file.

    `passages`: parts of a `.txt` between blank lines, or the `text` of each row; each is its own
    unit. `wikitext`: WikiText as a `.txt`, or as rows of one line each, cut into passages of 120
    words or more that end with a line and stay within an article; what remains of an article
    joins its last passage. Headings are dropped; the text keeps its tokenisation (`@-@`, `<unk>`),
    which published perplexities are on; the unit is the article. Raises InputError.
    """
    if format == "passages":
        for row in file_rows(path, BLANK_LINES):
            text = text_of(row)
            yield Extract(text, text)
        return
    content = "\n".join(text_of(row, may_be_empty=True).strip() for row in file_rows(path, END))
    for article in _articles(re.split(BLANK_LINES, content)):
        for text in _cut(article):
            yield Extract(text, article[0])


def read_records(path: File) -> Iterator[Record]:
    """The sequences in a file: the `text` or `token_ids` of each row, and its `corpus` if any.

    The extraction benchmark's CSV (doc_id, corpus, text) is one. Raises InputError.
    """
    for row in file_rows(path):
        corpus = string_of(row, "corpus") or stem_of(path)
        ids = value_of(row, "token_ids")
        if ids is None:
            yield Record(row.place, corpus, text_of(row))
        elif isinstance(ids, list) and all(type(token) is int for token in ids):
            yield Record(row.place, corpus, "", tuple(ids))
        else:
            raise InputError(f"{row.place}: `{row.key('token_ids')}` is no list of integers")


def _rtp(row: FileRow, scored: bool) -> tuple[Opening, float | None]:
    """The opening in a row of RealToxicityPrompts, and the prompt's toxicity.

    Only where it must be `scored` a prompt has to have a `toxicity`, be it null.
    """
    prompt = FileRow(f"{row.place}, `prompt`", field_of(row, "prompt"))
    opening = Opening(text_of(prompt))
    if found := object_of(row).get("continuation"):
        continuation = FileRow(f"{row.place}, `continuation`", found)
        reference = string_of(continuation, "text")
        opening = Opening(opening.text, reference, score_of(continuation, "toxicity"))
    if scored:
        field_of(prompt, "toxicity")
    return opening, score_of(prompt, "toxicity")


def _comment(row: FileRow, scored: bool) -> tuple[Opening | None, float | None]:
    """The opening in a row of CivilComments, None in a short one, and the comment's toxicity.

    That toxicity is the reference's too: no half of a comment has a score of its own. `scored` as
    for `_rtp`.
    """
    toxicity = score_of(row, either_of(row, COMMENT_TOXICITY, needed=scored))
    # The published files hold empty comments too: they are short ones.
    halves = _halves(text_of(row, either_of(row, COMMENT_TEXT), may_be_empty=True))
    return (Opening(*halves, toxicity) if halves else None), toxicity


def _halves(comment: str) -> tuple[str, str] | None:
    """A comment's first words, half of them rounded up, and the rest; None under COMMENT_WORDS.

    Words are what stands between white space, in scripts without it characters. The rest begins
    with the white space before its first word, so that the two in a row are the comment, the space
    around it aside.
    """
    comment = comment.strip()
    ends = [word.end() for word in WORD.finditer(comment)]
    if len(ends) < COMMENT_WORDS:
        return None
    middle = ends[(len(ends) + 1) // 2 - 1]
    return comment[:middle], comment[middle:]


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
        length += len(words(line))
    if length < PASSAGE_WORDS and len(passages) > 1:
        rest = passages.pop()
        passages[-1] += rest
    return ["\n".join(passage) for passage in passages]
