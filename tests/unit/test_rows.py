"""Rows of data files: whatever a file holds is a row or one sentence with its place."""

import json
import random
import unicodedata

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from rnr_dist.config.sources import ContextSource, SequenceSource
from rnr_dist.data.cleaning import segments
from rnr_dist.data.files import files_of
from rnr_dist.data.formats import read_extracts, read_openings, read_records
from rnr_dist.data.pairing import shares_words
from rnr_dist.data.problems import Question, load_problems
from rnr_dist.data.rows import file_rows
from rnr_dist.data.sequences import load_sequences
from rnr_dist.data.sources import load_contexts
from rnr_dist.data.splits import near_duplicates
from rnr_dist.data.words import bare_words, words
from rnr_dist.errors import InputError
from rnr_dist.types import Split


def refused(function, *arguments):
    with pytest.raises(InputError) as caught:
        list(function(*arguments))
    message = str(caught.value)
    assert "\n" not in message and len(message) < 500
    message.encode()
    return message


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": %s}' % ("9" * 5000), "is no JSON (Exceeds the limit"),
        ("[" * 100_000, "is nested too deeply, expected one object a line"),
        ('{"text": ' + "[" * 100_000, "is nested too deeply"),
        (r'{"text": "a \ud800 b"}', "`text` holds a NUL or half of a character ('a \\ud800 b')"),
        (r'{"text": "a \u0000 b"}', "`text` holds a NUL or half of a character"),
        (r'{"text": "a", "reference": "\udfff"}', "`reference` holds a NUL or half"),
        ('{"text": NaN}', "`text` is empty"),
        ('{"text": "a", "reference": Infinity}', "`reference` is inf, expected a string"),
        ('{"text": "a", "text": "b"}', "a key twice among text, text"),
        ('{"text": ["%s"]}' % ("x" * 9000), "`text` is ['xxx"),
        ('{"%s": 1}' % ("x" * 9000), "has no `text`, found xxx"),
        ("NaN", "found float, expected an object"),
        ('"text"', "found str, expected an object"),
    ],
)
def test_whatever_json_accepts_or_raises_is_one_sentence(tmp_path, line, message):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "fine"}\n' + line + "\n", encoding="utf-8")
    found = refused(read_openings, path, "lines", (0, 1))
    assert found.startswith(f"{path}, row 2: ") and message in found


@pytest.mark.parametrize("score", ["1" + "0" * 400, "true", "1e999", "-0.1", "[1]", '"x"', "{}"])
def test_a_score_is_a_number_from_0_to_1(tmp_path, score):
    path = tmp_path / "rows.jsonl"
    path.write_text(f'{{"prompt": {{"text": "a b", "toxicity": {score}}}}}', encoding="utf-8")
    assert "row 1, `prompt`: `toxicity` is " in refused(read_openings, path, "rtp", (0, 1))


def test_nan_is_null_where_null_is_allowed(tmp_path):
    path = tmp_path / "rows.jsonl"
    row = {"prompt": {"text": "a b", "toxicity": float("nan")}, "continuation": None}
    scored = {"prompt": {"text": "c d", "toxicity": 0.7}, "continuation": {"text": float("nan")}}
    path.write_text("\n".join(map(json.dumps, [row, scored])), encoding="utf-8")
    texts = [opening.text for opening in read_openings(path, "rtp", (0.5, 1))]
    assert texts == ["c d"]
    assert [one.reference for one in read_openings(path, "rtp", (0, 1))] == [None, None]
    table = pyarrow.table({"text": ["a b"], "reference": pyarrow.array([float("nan")])})
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")
    [opening] = read_openings(tmp_path / "rows.parquet", "lines", (0, 1))
    assert opening.reference is None


def test_a_truth_value_is_no_token_and_no_answer(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"token_ids": [1, true]}', encoding="utf-8")
    assert "row 1: `token_ids` is no list of integers" in refused(read_records, path)
    path.write_text('{"question": "a", "choices": ["b", "c"], "answer": true}', encoding="utf-8")
    assert "row 1: `answer`" in refused(load_problems, str(path), Question)


def test_a_suffix_in_capitals_is_the_same_suffix(tmp_path):
    for name, content in {
        "a.JSONL": '{"text": "one"}',
        "b.TXT": "one",
        "c.Csv": "text\none\n",
    }.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
        assert [one.text for one in read_openings(tmp_path / name, "lines", (0, 1))] == ["one"]
    pyarrow.parquet.write_table(pyarrow.table({"text": ["one"]}), tmp_path / "d.PARQUET")
    assert [row.fields for row in file_rows(tmp_path / "d.PARQUET")] == [{"text": "one"}]
    assert "found .txt, expected" in refused(read_openings, tmp_path / "b.TXT", "rtp", (0, 1))


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le"])
@pytest.mark.parametrize("name", ["rows.txt", "rows.jsonl", "rows.csv"])
def test_utf_16_without_its_mark_is_refused(tmp_path, encoding, name):
    path = tmp_path / name
    path.write_bytes('{"text": "one two"}\n'.encode(encoding))
    found = refused(read_openings, path, "lines", (0, 1))
    assert found == f"{path}: found NUL characters, as UTF-16 has them, expected UTF-8 text"


def test_a_long_csv_field_is_read(tmp_path):
    path = tmp_path / "rows.csv"
    text = "word " * 100_000 + "end"
    path.write_text(f'text,reference\n"{text}",b\n', encoding="utf-8")
    [opening] = read_openings(path, "lines", (0, 1))
    assert opening.text == text


def test_a_column_that_is_there_twice_is_refused(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("text,id,text\na,1,b\n", encoding="utf-8")
    assert "has the column `text` twice" in refused(read_openings, path, "lines", (0, 1))
    table = pyarrow.Table.from_arrays([pyarrow.array(["a"])] * 2, names=["text", "text"])
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")
    found = refused(read_openings, tmp_path / "rows.parquet", "lines", (0, 1))
    assert "has the column `text` twice" in found


@pytest.mark.parametrize("name", ["x" * 300 + ".txt", "a\0b.txt", "none.txt/none.txt"])
def test_a_path_that_no_file_can_have_is_named(tmp_path, name):
    assert "expected" in refused(read_openings, tmp_path / name, "lines", (0, 1))


def test_a_home_folder_is_meant_by_its_sign(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "rows.txt").write_text("one line of text\n", encoding="utf-8")
    source = ContextSource(source="~/rows.txt", splits={Split.FINAL: 1})
    assert [context.text for context in load_contexts(source, "g")] == ["one line of text"]
    assert "expected a file" in refused(files_of, "~nobody_of_that_name/rows.txt")


class Tokens:
    """A tokenizer of ten tokens."""

    def __len__(self):
        return 10

    def decode(self, ids):
        return " ".join(map(str, ids))


@pytest.mark.parametrize(
    "kind", ["empty", "archive", "promise", "header", "pickle", "floats", "short"]
)
def test_an_array_that_is_none_is_named(tmp_path, kind):
    path = tmp_path / "ids.NPY"
    rows = np.arange(8).reshape(2, 4)
    with path.open("wb") as file:
        if kind == "archive":
            np.savez(file, rows)
        elif kind == "pickle":
            np.save(file, np.array([{}], object), allow_pickle=True)
        elif kind == "floats":
            np.save(file, rows * 1.0)
        elif kind != "empty":
            np.save(file, rows)
    if kind == "promise":  # a header of more than any machine holds
        content = path.read_bytes().replace(b"(2, 4), }" + 9 * b" ", b"(2, 4000000000), }")
        path.write_bytes(content)
    if kind == "header":
        path.write_bytes(path.read_bytes().replace(b"}", b" "))
    if kind == "short":
        path.write_bytes(path.read_bytes()[:-8])
    found = refused(load_sequences, SequenceSource(source=str(path)), Tokens(), 1, 4)
    assert found.startswith(f"{path}: ")


def test_more_records_than_there_are_people_are_refused():
    source = SequenceSource(first=10**5, count=1)

    class Encodes(Tokens):
        def encode(self, text):
            return [1, 2, 3]

    assert "only " in refused(load_sequences, source, Encodes(), 1, 4)


def test_files_of_random_bytes_never_end_in_a_traceback(tmp_path):
    draw = random.Random(0)
    seeds = [b'{"text": "a b c", "reference": null}\n', b"text,reference\na b,c\n", b"one\n\ntwo\n"]
    parts = [
        b"\0",
        b"\xff",
        b'"',
        b"\\ud800",
        b"NaN",
        b"\r",
        b"{",
        b"[" * 2000,
        b"9" * 5000,
        b",\n",
    ]
    for number in range(400):
        content = bytearray(draw.choice(seeds))
        for _ in range(draw.randint(1, 4)):
            place = draw.randrange(len(content) + 1)
            content[place : place + draw.randint(0, 3)] = draw.choice(parts)
        path = tmp_path / f"{number}{draw.choice(['.txt', '.jsonl', '.csv', '.parquet', '.TXT'])}"
        path.write_bytes(content)
        for read in (
            lambda path: read_openings(path, "lines", (0, 1)),
            lambda path: read_openings(path, "rtp", (0, 1)),
            lambda path: read_openings(path, "civil_comments", (0.5, 1)),
            lambda path: read_extracts(path, "wikitext"),
            lambda path: read_records(path),
        ):
            try:
                for found in read(path):
                    found.text.encode()
            except InputError as error:
                assert str(path) in str(error)


# Texts without spaces

CHINESE = "昨天我和朋友去了城里的市场，买了三斤苹果和两条鱼。"
JAPANESE = "きのう友だちと町の市場へ行って、りんごを三つ買いました。"
THAI = "เมื่อวานนี้ฉันไปตลาดกับเพื่อนและซื้อแอปเปิลสามลูก"


@pytest.mark.parametrize("text", [CHINESE, JAPANESE, THAI])
def test_near_copies_are_found_in_texts_without_spaces(text):
    other = "完全不同的一句话，讲的是昨夜的雨。" if text is not CHINESE else JAPANESE
    copy = text[: len(text) * 3 // 4] + other[:4]
    pairs = near_duplicates({Split.FINAL: [text], Split.TRAIN: [copy, other]})
    assert pairs == [((Split.FINAL, text), (Split.TRAIN, copy))]


@pytest.mark.parametrize("text", [CHINESE, JAPANESE, THAI])
def test_a_comment_without_spaces_is_halved_by_characters(tmp_path, text):
    path = tmp_path / "comments.jsonl"
    rows = [{"text": text, "toxicity": 0.9}, {"text": text[:4], "toxicity": 0.9}]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    [opening] = read_openings(path, "civil_comments", (0.8, 1))
    assert opening.text + opening.reference == text
    assert abs(len(opening.text) - len(opening.reference)) < 8
    assert not unicodedata.category(opening.reference[0]).startswith("M")


def test_content_exclusion_sees_runs_without_spaces():
    assert shares_words(CHINESE, f"他说：{CHINESE[:12]}", 8)
    assert not shares_words(CHINESE, "完全不同的一句话讲的是昨夜的雨", 8)


def test_wikitext_without_spaces_is_cut_into_passages(tmp_path):
    path = tmp_path / "wiki.txt"
    lines = [f"{number}{CHINESE * 3}" for number in range(8)]
    path.write_text(" = 标题 = \n\n" + "\n".join(lines), encoding="utf-8")
    found = [extract.text for extract in read_extracts(path, "wikitext")]
    assert len(found) == 4 and "\n".join(found) == "\n".join(lines)


def test_words_between_spaces_are_what_they_were():
    text = "It's  a (long) day, \t isn't it?\nYes: 3.5 %"
    assert words(text) == text.split()
    assert bare_words(text) == ["It", "s", "a", "long", "day", "isn", "t", "it", "Yes", "3", "5"]
    assert segments(text, 3) == ["It's  a (long) ", "day, \t ", "isn't it?\n", "Yes: ", "3.5 %"]
    assert segments(CHINESE, 6)[0] == "昨天我和朋友" and "".join(segments(CHINESE, 6)) == CHINESE


def test_every_mark_of_those_scripts_stays_with_its_letter():
    """Of the scripts that set no spaces, from Unicode's own tables."""
    blocks = [(0x0E00, 0x1000), (0x1000, 0x10A0), (0x1780, 0x1800), (0x3040, 0x3130)]
    letters = {0x0E00: "\u0e01", 0x1000: "\u1000", 0x1780: "\u1780", 0x3040: "\u3042"}
    marks = [
        letters[first] + chr(code)
        for first, last in blocks
        for code in range(first, last)
        if unicodedata.category(chr(code)).startswith("M")
    ]
    assert len(marks) > 150
    assert [pair for pair in marks if words(pair) != [pair]] == []
