"""Texts with the entities in them: CoNLL's columns, UniversalNER's conversations, built-in ones.

In: a `MarkedSource`. Out: `Marked` texts, one a text, in the order of the source. Invariant: an
entity stands under the types that its file asks for and no other, and a row that is none is one
InputError that names the file and the row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rnr_dist.config.entities import MarkedSource
from rnr_dist.data.entity_answers import parsed, spaced
from rnr_dist.data.files import files_of
from rnr_dist.data.invented import invented_texts
from rnr_dist.data.rows import DataFile, FileRow, field_of, file_rows, lines_of, text_of
from rnr_dist.data.splits import normalised
from rnr_dist.errors import InputError, shown

LONGEST_LINE = 20_000  # bytes of a token and its tag
LONGEST_TEXT = 100_000  # characters: no model is given more at once
DOCUMENT = "-DOCSTART-"
OUTSIDE = "O"
TEXT, ASKED, TYPE_END = "Text: ", "What describes ", " in the text?"
SPEAKERS = ("human", "gpt")


@dataclass(frozen=True)
class Marked:
    """A text and, by each type that was asked for, what it names: in order, each once.

    place: the file and the row that it stands in.
    """

    place: str
    text: str
    entities: Mapping[str, tuple[str, ...]]


def load_marked(source: MarkedSource, types: Sequence[str], key: str) -> list[Marked]:
    """The texts of a source that were asked for one of `types`, under the types' own names.

    Copies of a text count once. Raises InputError, also for a type that the source never marks;
    `key` is what a sentence calls the source's place in the config.
    """
    called = {source.labels.get(name, name).casefold(): name for name in types}
    found: dict[str, Marked] = {}
    met: set[str] = set()
    for one in _texts(source):
        known = {label.casefold(): names for label, names in one.entities.items()}
        met |= known.keys()
        asked = {name: known[label] for label, name in called.items() if label in known}
        if asked:
            found.setdefault(normalised(one.text), Marked(one.place, one.text, asked))
    for label, name in called.items():
        if label not in met:
            raise InputError(
                f"{key}: found no entity of type {name!r} in {source.source}, expected some of "
                f"{shown(', '.join(sorted(met)), str) or 'no type at all'}; `labels` says what the "
                "file calls a type"
            )
    return list(found.values())


def _texts(source: MarkedSource) -> Iterator[Marked]:
    if source.format == "builtin":
        for number, (text, entities) in enumerate(invented_texts(source.first, source.count)):
            yield Marked(f"{source.source} {source.first + number}", text, entities)
        return
    for file in files_of(source.source):
        yield from _conll(file) if source.format == "conll" else _conversations(file)


# CoNLL


@dataclass(frozen=True)
class _Token:
    place: str
    word: str
    tag: str


def _conll(file: DataFile) -> Iterator[Marked]:
    """Sentences between blank lines, tokens joined by spaces; every type of the file is asked of
    every sentence. Raises InputError."""
    sentences = list(_sentences(file))
    types = sorted({_label(token) for sentence in sentences for token in sentence} - {""})
    for sentence in sentences:
        text = " ".join(token.word for token in sentence)
        if len(text) > LONGEST_TEXT:
            raise InputError(
                f"{sentence[0].place}: a sentence of {len(text):,} characters begins here; "
                f"expected at most {LONGEST_TEXT:,}, and a blank line between sentences"
            )
        held: dict[str, list[str]] = {name: [] for name in types}
        for label, words in _spans(sentence):
            held[label].append(" ".join(words))
        yield Marked(
            sentence[0].place,
            text,
            {name: tuple(dict.fromkeys(names)) for name, names in held.items()},
        )


def _sentences(file: DataFile) -> Iterator[list[_Token]]:
    columns, sentence = 0, list[_Token]()
    for number, line in enumerate(lines_of(file, LONGEST_LINE), start=1):
        place = f"{file}, line {number}"
        parts = line.split("\t") if "\t" in line else line.split()
        if not any(part.strip() for part in parts) or parts[0] == DOCUMENT:
            if sentence:
                yield sentence
            sentence = []
            continue
        columns = columns or len(parts)
        if len(parts) != columns or columns < 2 or not (parts[0].strip() and parts[-1].strip()):
            raise InputError(
                f"{place}: found {len(parts)} column(s) in {shown(line)}, expected "
                f"{max(2, columns)}, a token first and its tag last"
            )
        sentence.append(_Token(place, parts[0].strip(), parts[-1].strip()))
    if sentence:
        yield sentence


def _label(token: _Token) -> str:
    """The type in a tag; "" outside. Raises InputError for what is no BIO tag."""
    if token.tag == OUTSIDE:
        return ""
    kind, dash, label = token.tag.partition("-")
    if kind not in ("B", "I") or not dash or not label:
        raise InputError(
            f"{token.place}: the tag of {shown(token.word)} is {shown(token.tag)}, expected O, "
            "B-TYPE or I-TYPE"
        )
    return label


def _spans(sentence: Sequence[_Token]) -> Iterator[tuple[str, list[str]]]:
    """(type, tokens) of each entity; an I- that goes on from nothing begins one, as in IOB1."""
    label, words = "", list[str]()
    for token in sentence:
        own = _label(token)
        if words and (own != label or token.tag.startswith("B-")):
            yield label, words
            words = []
        label = own
        if own:
            words.append(token.word)
    if words:
        yield label, words


# UniversalNER


def _conversations(file: DataFile) -> Iterator[Marked]:
    """A text a row, or several rows one after another with one question each. Raises InputError."""
    held: dict[str, Marked] = {}
    for row in file_rows(file):
        text, asked = _conversation(row)
        key = normalised(text)
        before = held.get(key)
        # What is asked twice was answered the first time.
        entities = {**asked, **before.entities} if before else asked
        held[key] = Marked(before.place if before else row.place, text, entities)
    yield from held.values()


def _conversation(row: FileRow) -> tuple[str, dict[str, tuple[str, ...]]]:
    turns = _turns(row)
    text = turns[0].removeprefix(TEXT).strip()
    if not turns[0].startswith(TEXT) or not text:
        raise InputError(
            f"{row.place}, turn 1: found {shown(turns[0])}, expected `{TEXT}` and a text"
        )
    if len(text) > LONGEST_TEXT:
        raise InputError(
            f"{row.place}, turn 1: has {len(text):,} characters, expected at most {LONGEST_TEXT:,}"
        )
    asked: dict[str, tuple[str, ...]] = {}
    for number in range(2, len(turns), 2):
        question, answer = turns[number : number + 2]
        name = question.removeprefix(ASKED).removesuffix(TYPE_END).strip()
        if not (question.startswith(ASKED) and question.endswith(TYPE_END) and name):
            raise InputError(
                f"{row.place}, turn {number + 1}: found {shown(question)}, expected "
                f"`{ASKED}TYPE{TYPE_END}`"
            )
        names = parsed(answer)
        if names is None:
            raise InputError(
                f"{row.place}, turn {number + 2}: the answer is {shown(answer)}, expected a list "
                "of strings"
            )
        asked.setdefault(name, tuple(map(spaced, names)))
    return text, asked


def _turns(row: FileRow) -> list[str]:
    """What is said, by the human and the model in turn: the text, a word on it, then questions."""
    value: Any = field_of(row, "conversations")
    if not isinstance(value, list) or len(value) < 4 or len(value) % 2:
        count = len(value) if isinstance(value, list) else shown(value)
        raise InputError(
            f"{row.place}: `conversations` has {count} turns, expected a text, a word on it, then "
            "questions each with an answer"
        )
    said = []
    for number, fields in enumerate(value, start=1):
        turn = FileRow(f"{row.place}, turn {number}", fields)
        speaker, expected = field_of(turn, "from"), SPEAKERS[(number - 1) % 2]
        if speaker != expected:
            raise InputError(
                f"{turn.place}: `from` is {shown(speaker)}, expected {expected!r}, as the turns "
                "go by"
            )
        said.append(text_of(turn, "value"))
    return said
