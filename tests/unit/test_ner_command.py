"""What a person can get wrong with named entities, through the command: one sentence, code 2."""

import json

import pytest
import yaml

from tests.unit.command_fakes import lines, rnr
from tests.unit.test_marked import turns

PEOPLE = ["Ann Lee\tB-PER", "met\tO", "Bo\tB-PER", "in\tO", "Rome\tB-LOC", ""]
GREEDY = {"n": 1, "max_tokens": 8, "temperature": 0}


def sentences(count):
    """CoNLL's columns; each sentence has words of its own before the same four entities."""
    words = ([f"{word}\tO" for word in line.split()] for line in lines(count, 0))
    return "\n".join("\n".join([*own, *PEOPLE]) for own in words)


@pytest.fixture
def marked(place):
    """The command's folder with a corpus of two types and a config on it."""
    (place / "set.conll").write_text(sentences(60), encoding="utf-8")
    task = {
        "name": "ner",
        "texts": {"source": "set.conll", "format": "conll", "labels": {"person": "PER"}},
        "target": "person",
        "retained": ["LOC"],
        "asks": {"chat": False},
    }
    config = {"name": "small", "model": "./model", "engines": {"count": 1}, "task": task}
    config |= {"release": {"search": GREEDY, "reread": 0}, "evaluate": {"sampling": GREEDY}}
    (place / "ner.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return place


def test_the_config_is_right_as_it_is(marked, capsys):
    assert rnr("check", "ner.yaml") == 0
    assert "questions for person in train" in capsys.readouterr().out


BAD = {
    "a type that the corpus does not know": (
        None,
        ["task.target=colour"],
        ["task.texts: found no entity of type 'colour' in set.conll", "some of loc, per"],
    ),
    "a type in two roles": (
        None,
        ["task.retained=[Person]"],
        ["ner.yaml: task: retained: found person twice among target and retained types"],
    ),
    "columns that break off": (
        sentences(60) + "Bo\n",
        [],
        ["set.conll, line 900: found 1 column(s) in 'Bo', expected 2"],
    ),
    "a tag that is none": (
        "Bo\tperson\n",
        [],
        ["set.conll, line 1: the tag of 'Bo' is 'person', expected O, B-TYPE"],
    ),
    "another encoding": (
        "Zoë\tB-PER\n".encode("latin-1"),
        [],
        ["set.conll, line 1: cannot be read", "expected UTF-8"],
    ),
    "another format": (
        json.dumps([turns("Ann met Bo.", ("person", "[]"))]),
        [],
        ["set.conll, line 1: the tag of '[{\"conversations\":'", "expected O, B-TYPE"],
    ),
    "lessons that no stage gives": (
        None,
        ["task.teach={source: {source: set.conll, format: conll}}"],
        ["task.teach: found a section beside the recipe reveal-and-release"],
    ),
    "texts that are too few for every split": (
        sentences(2),
        [],
        ["task.texts: splits.reveal has share 1 but got none of 2 texts"],
    ),
}


@pytest.mark.parametrize(("corpus", "overrides", "parts"), BAD.values(), ids=BAD)
def test_bad_input_is_one_sentence(marked, refused, corpus, overrides, parts):
    if corpus is not None:
        content = corpus if isinstance(corpus, bytes) else corpus.encode()
        (marked / "set.conll").write_bytes(content)
    words = [word for one in overrides for word in ("--set", one)]
    sentence = refused("run", "ner.yaml", *words, "--run", "made")
    for part in parts:
        assert part in sentence, sentence
