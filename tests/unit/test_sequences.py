"""Sequences of token ids from every format, what is refused, and the built-in records."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers import AutoTokenizer

from rnr_dist.config.file import validate
from rnr_dist.config.schema import Config
from rnr_dist.config.sources import SequenceSource
from rnr_dist.data.records import DISTINCT, FORMS, Person, record_texts
from rnr_dist.data.sequences import check_disjoint, load_sequences
from rnr_dist.errors import InputError
from rnr_dist.types import TokenSequence

WORDS = [f"w{n}" for n in range(2, 14)]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory, tiny_tokenizer):
    folder = tmp_path_factory.mktemp("tokenizer")
    tiny_tokenizer(folder, 20)
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture
def load(tmp_path, tokenizer):
    def loaded(name, write, t0=3, most=8, **options):
        path = tmp_path / name
        write(path)
        return load_sequences(SequenceSource(source=str(path), **options), tokenizer, t0, most)

    return loaded


def text_of(*numbers):
    return " ".join(f"w{number}" for number in numbers)


def test_every_format_gives_the_same_tokens(load):
    rows = [[2, 3, 4, 5, 6], [7, 8, 9, 10, 11]]
    texts = [text_of(*row) for row in rows]
    csv = "doc_id,corpus,text\n" + "".join(f"{n},law,{text}\n" for n, text in enumerate(texts))
    told = [json.dumps({"text": text}) for text in texts]
    ids = [json.dumps({"token_ids": row}) for row in rows]
    found = [
        load("a.csv", lambda path: path.write_text(csv)),
        load("a.jsonl", lambda p: p.write_text("\n".join(told))),
        load("b.jsonl", lambda path: path.write_text("\n".join(ids))),
        load("a.parquet", lambda path: pq.write_table(pa.table({"text": texts}), path)),
        load("a.npy", lambda path: np.save(path, np.array(rows))),
    ]
    for sequences in found:
        assert [list(one.token_ids) for one in sequences] == rows
        assert [one.text for one in sequences] == texts
    assert {one.corpus for one in found[0]} == {"law"}
    assert {one.prefix_tokens for sequences in found for one in sequences} == {3}
    assert [one.id for one in found[0]] == [one.id for one in found[4]]


def test_tokens_are_skipped_then_cut(load):
    write = lambda path: path.write_text(" ".join(WORDS))  # noqa: E731
    [one] = load("a.txt", write, skip_tokens=2)
    assert one.token_ids == tuple(range(4, 12))
    with pytest.raises(InputError, match=r"row 1: has 10 tokens; expected at most .* 8, or `cut"):
        load("a.txt", write, skip_tokens=2, cut=False)


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (text_of(2, 3, 4), {}, r"row 1: has 3 tokens after 0 skipped; expected more than .*3"),
        (text_of(2, 3, 4, 5), {"skip_tokens": 9}, "row 1: is empty after 9 skipped tokens"),
        (f"{text_of(2, 3, 4, 5)}\n{text_of(2, 3, 4, 5)}", {}, "row 2: is the same sequence as"),
        (text_of(2, 3, 4, 5), {"count": 2}, "found 1 sequences, expected 2"),
        ("", {}, "found 0 sequences, expected 1"),
    ],
)
def test_a_bad_text_is_named(load, content, options, message):
    with pytest.raises(InputError, match=message):
        load("a.txt", lambda path: path.write_text(content), **options)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"doc_id,words\n1,w2 w3\n", "row 1: has no `text`, found doc_id, words"),
        ("a.csv", b"text\n\xff\xfe w2\n", "cannot be read .* expected UTF-8 text"),
        ("a.csv", b'corpus,text\nlaw,""\n', "row 1: `text` is empty"),
        ("a.jsonl", b'{"token_ids": [2, "x"]}', "row 1: `token_ids` is no list of integers"),
        ("a.jsonl", b'{"token_ids": [2, 3, 4, 99]}', "row 1: found token 99; expected 0 to 19"),
        ("a.npy", b"nothing", "a.npy: cannot be read"),
    ],
)
def test_a_bad_file_is_named(load, name, content, message):
    with pytest.raises(InputError, match=message):
        load(name, lambda path: path.write_bytes(content))


def test_an_array_of_another_shape_is_named(load):
    with pytest.raises(InputError, match=r"found float64 of shape \(3,\), expected integers"):
        load("a.npy", lambda path: np.save(path, np.ones(3)))


def test_sets_that_share_a_sequence_are_named():
    one, other = (TokenSequence(name, "", (1,), f"text {name}") for name in "ab")
    check_disjoint({"task.forget": [one], "task.pool": [other]})
    with pytest.raises(InputError, match=r"task\.pool: holds a sequence of task\.forget too"):
        check_disjoint({"task.forget": [one], "task.pool": [other, one]})


def test_records_follow_from_their_numbers_and_name_nobody_twice():
    assert [*record_texts(5, 4)] == [*record_texts(5, 9)][:4]
    names = [Person(number).name for number in range(DISTINCT)]
    assert len(set(names)) == DISTINCT
    texts = [*record_texts(0, 60)]
    assert {form for form, _ in texts} == FORMS.keys()
    assert len({text for _, text in texts}) == 60
    for number, (_, text) in enumerate(texts):
        assert Person(number).name in text[:80]
        assert not any(name in text for name in names if name != Person(number).name)
    with pytest.raises(ValueError, match="people have names"):
        [*record_texts(DISTINCT - 1, 2)]


# The config


def unlearning(**content):
    return Config(name="t", **{"task": {"name": "extraction"}, **content})


def test_presets_fill_in_what_the_file_leaves_out():
    paper = unlearning(preset="paper", stopping={"epochs": 3})
    assert paper.stopping.epochs == 3
    assert (paper.stopping.extraction, paper.stopping.memorisation) == (0.0499, 0.5994)
    assert paper.refinement.bertscore_below == 0.3 and paper.refinement.sticky
    training = paper.methods.of("icu").training
    assert (training.objective.reduction, training.learning_rate) == ("sequence", 5e-6)
    reference = unlearning(preset="reference")
    assert (reference.task.prefix_tokens, reference.task.max_tokens) == (150, 200)
    assert reference.refinement.combine == "or" and not reference.pairing.exclude_content
    assert reference.methods.of("icu").training.objective.divergence == "cross_entropy"
    default = unlearning(memorise={"training": {"epochs": 3}})
    assert default.memorise.training.parameters == "full"  # single keys, above the defaults
    assert default.stopping.extraction is None and default.pairing.exclude_content


EXTRACTION = {"name": "extraction"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"workers": {"zero_stage": 2, "offload": "weights"}}, "found zero_stage 2; expected 3"),
        ({"task": {**EXTRACTION, "prefix_tokens": 95}}, "prefix_tokens 95 and n 10 together"),
        ({"methods": {"icu": {"training": {"schedule": "linear"}}}}, "expected constant"),
        ({"memorise": {"training": {"schedule": "linear"}}}, "expected constant"),
        ({"methods": {"icu": {"training": {"objective": {"name": "kl"}}}}}, "found kl, expected"),
        ({"stopping": {"extraction": 1.5}}, "less than or equal to 1"),
    ],
)
def test_a_config_that_cannot_work_is_refused(content, message):
    with pytest.raises(InputError, match=message):
        validate({"name": "t", "task": EXTRACTION, **content}, "config")
