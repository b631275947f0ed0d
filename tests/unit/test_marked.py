"""Marked texts: both published formats, the invented ones, and each bad file in one sentence."""

import gzip
import json
from itertools import pairwise

import pytest

from rnr_dist.config.entities import MarkedSource
from rnr_dist.data.invented import TYPES, invented_texts
from rnr_dist.data.marked import load_marked
from rnr_dist.data.splits import drop_cross_split_duplicates, split_of
from rnr_dist.errors import InputError
from rnr_dist.types import Passage, Split

CONLL = """-DOCSTART-\tO

Ann\tB-PER
Lee\tI-PER
met\tO
Bo\tB-PER
Cy\tB-PER
in\tO
Rome\tI-LOC
.\tO
\t
It\tO
rained\tO
"""


def conll(tmp_path, content=CONLL, name="set.conll", **more):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return MarkedSource(source=str(path), format="conll", **more)


def turns(text, *asked):
    """A conversation on a text: (type, answer) of each question."""
    said = [f"Text: {text}", "I've read this text."]
    for kind, answer in asked:
        said += [f"What describes {kind} in the text?", answer]
    speakers = ("human", "gpt")
    return {
        "conversations": [
            {"from": speakers[place % 2], "value": value} for place, value in enumerate(said)
        ]
    }


def conversations(tmp_path, *rows):
    path = tmp_path / "set.json"
    path.write_text(json.dumps(list(rows)), encoding="utf-8")
    return MarkedSource(source=str(path), format="universal_ner")


def load(source, *types):
    return load_marked(source, types or ("person",), "task.texts")


def refused(source, *types):
    with pytest.raises(InputError) as error:
        load(source, *types)
    sentence = str(error.value)
    assert "\n" not in sentence and len(sentence) < 500
    return sentence


def test_conll_s_columns(tmp_path):
    labels = {"person": "PER", "location": "loc"}
    one, other = load(conll(tmp_path, labels=labels), "person", "location")
    assert one.text == "Ann Lee met Bo Cy in Rome ."
    assert one.entities == {"person": ("Ann Lee", "Bo", "Cy"), "location": ("Rome",)}
    assert one.place.endswith("set.conll, line 3")
    assert other.entities == {"person": (), "location": ()}


def test_conll_of_spaces_and_four_columns_packed_with_a_mark(tmp_path):
    lines = "\ufeffAnn NNP I-NP B-person\nleft VBD O O\n\nBo NNP I-NP I-person\n"
    path = tmp_path / "set.txt.gz"
    path.write_bytes(gzip.compress(lines.replace("\n", "\r\n").encode()))
    found = load(MarkedSource(source=str(path), format="conll"))
    assert [(one.text, one.entities["person"]) for one in found] == [
        ("Ann left", ("Ann",)),
        ("Bo", ("Bo",)),
    ]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("Ann\tB-person\nLee\n", r"line 2: found 1 column\(s\) in 'Lee', expected 2"),
        ("Ann\tNNP\tB-person\nLee\tO\n", r"line 2: found 2 column\(s\) .* expected 3"),
        ("Ann\n", r"line 1: found 1 column\(s\) in 'Ann', expected 2"),
        ("Ann\t\n", r"line 1: found 2 column\(s\)"),
        ("\tB-person\n", r"line 1: found 2 column\(s\)"),
        ("Ann\tX-person\n", "line 1: the tag of 'Ann' is 'X-person', expected O, B-TYPE or"),
        ("Ann\tperson\n", "line 1: the tag of 'Ann' is 'person'"),
        ("Ann\tB-person\nZoë\tO\n".encode("latin-1"), "line 2: cannot be read .* expected UTF-8"),
        ("Ann\tB-person\n".encode("utf-16"), "line 1: cannot be read .* expected UTF-8"),
        (b"A\0n\0n\0\t\0O\0\n\0", "found NUL characters, as UTF-16 has them"),
        ("a\tO\n" * 60_000, "line 1: a sentence of 119,999 characters begins here"),
    ],
)
def test_a_conll_file_that_is_none(tmp_path, content, told):
    import re

    assert re.search(told, refused(conll(tmp_path, content)))


def test_a_line_of_100_mb_is_not_read_whole(tmp_path):
    path = tmp_path / "long.conll"
    with path.open("wb") as file:
        file.write(b"Ann\tB-person\n" + b"x")
        file.truncate(100_000_000)
    told = refused(MarkedSource(source=str(path), format="conll"))
    assert "line 2: has more than 20,000 bytes" in told
    rows = conversations(tmp_path, turns("x" * 100_000_000, ("person", "[]")))
    assert "row 1, turn 1: has 100,000,000 characters, expected at most 100,000" in refused(rows)


def test_a_file_that_is_not_there(tmp_path):
    assert "found no such file" in refused(
        MarkedSource(source=str(tmp_path / "no.conll"), format="conll")
    )


# UniversalNER


def test_universal_ner_s_conversations(tmp_path):
    """A question a row, as its test sets are, or several, as its training set."""
    source = conversations(
        tmp_path,
        turns("Ann met Bo.", ("Person", '["Ann", "Bo"]')),
        turns("Ann met Bo.", ("event", "[]"), ("Person", '["Cy"]')),
        turns("It rained.", ("event", '["rain"]')),
        turns("Nobody asks.", ("colour", "[]")),
    )
    one, other = load(source, "person", "event")
    assert (one.text, one.entities) == ("Ann met Bo.", {"person": ("Ann", "Bo"), "event": ()})
    assert other.entities == {"event": ("rain",)}  # of people it was not asked


GOOD = turns("Ann met Bo.", ("person", "[]"))["conversations"]


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"messages": []}, "row 2: has no `conversations`, found messages"),
        ({"conversations": "Ann"}, "row 2: `conversations` has 'Ann' turns"),
        ({"conversations": GOOD[:2]}, "row 2: `conversations` has 2 turns, expected a text"),
        ({"conversations": GOOD[:3]}, "row 2: `conversations` has 3 turns"),
        ({"conversations": GOOD[1:] + GOOD[:1]}, "turn 1: `from` is 'gpt', expected 'human'"),
        ({"conversations": [{"from": "human"}, *GOOD[1:]]}, "turn 1: has no `value`"),
        (turns("", ("person", "[]")), "row 2, turn 1: found 'Text: ', expected `Text: `"),
        (turns("Ann.", ("", "[]")), "row 2, turn 3: found 'What describes  in the text?'"),
        (turns("Ann.", ("person", "Ann")), "turn 4: the answer is 'Ann', expected a list of"),
        (turns("Ann.", ("person", "[7]")), "turn 4: the answer is '[7]', expected a list of"),
        ("Ann", "row 2: found str, expected an object"),
    ],
)
def test_a_conversation_that_is_none(tmp_path, row, told):
    good = turns("Ann met Bo.", ("person", "[]"))
    assert told in refused(conversations(tmp_path, good, row))


def test_mixed_encodings(tmp_path):
    path = tmp_path / "set.jsonl"
    rows = [json.dumps(turns(name, ("person", "[]")), ensure_ascii=False) for name in ("é", "è")]
    path.write_bytes(rows[0].encode() + b"\n" + rows[1].encode("latin-1"))
    told = refused(MarkedSource(source=str(path), format="universal_ner"))
    assert "cannot be read" in told and "expected UTF-8 text" in told


def test_an_unknown_type_is_named_beside_those_that_are_there(tmp_path):
    told = refused(conll(tmp_path), "person")
    assert told.startswith("task.texts: found no entity of type 'person' in ")
    assert "expected some of loc, per; `labels` says what the file calls a type" in told
    assert "expected some of no type at all" in refused(conll(tmp_path, "a\tO\n"))


# The invented ones


def test_a_sentence_follows_from_its_number_and_marks_every_name():
    rows = list(invented_texts(0, 200))
    assert rows[50:60] == list(invented_texts(50, 10))
    for text, entities in rows:
        left = text
        for name in sorted((n for names in entities.values() for n in names), key=len)[::-1]:
            assert name in left, (text, name)
            left = left.replace(name, "_", 1)
        # What is left begins with a capital only where a sentence does.
        words = left.split()
        inside = [word for before, word in pairwise(words) if not before.endswith(".")]
        assert not any(word[:1].isupper() or word[:1].isdigit() for word in inside), text
    held = {kind: sum(bool(entities[kind]) for _, entities in rows) for kind in TYPES}
    assert min(held.values()) > 60  # each type is often there, and often not
    assert max(held.values()) < 180


def test_sentences_of_one_form_are_no_copies():
    shares = dict.fromkeys(Split, 1.0)
    texts = [text for text, _ in invented_texts(0, 600)]
    passages = [Passage(text, text, split_of(text, shares), "") for text in texts]
    [kept] = drop_cross_split_duplicates(passages)
    assert len(kept) > 585
