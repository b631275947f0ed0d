"""The data room: one sentence for each bad input."""

import json

import pytest

from rnr_dist.config.sources import ContextSource, TextSource
from rnr_dist.data.sources import load_contexts, load_passages
from rnr_dist.data.splits import (
    split_of,
)
from rnr_dist.errors import InputError
from rnr_dist.types import Split
from tests.unit.rows import SHARES, rtp_row, write_rows


def context_error(source, **options):
    options.setdefault("splits", {Split.FINAL: 1})
    with pytest.raises(InputError) as caught:
        load_contexts(ContextSource(source=str(source), **options), "g")
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_an_unknown_builtin_lists_the_known():
    message = context_error("builtin:chalenging")
    assert "'chalenging'" in message
    assert "challenging, ordinary, expository, narrative, practical" in message


def test_a_missing_file_is_named(tmp_path):
    assert context_error(tmp_path / "none.txt").startswith(f"{tmp_path}/none.txt: found no such")


def test_an_unknown_extension_is_named(tmp_path):
    (tmp_path / "rows.tsv").write_text("a\tb")
    message = context_error(tmp_path / "rows.tsv")
    assert "found extension '.tsv', expected .txt, .jsonl, .json, .csv, .parquet" in message
    assert "found extension 'none'" in context_error(tmp_path)


def test_files_that_cannot_be_read_are_named(tmp_path):
    latin = tmp_path / "latin.txt"
    latin.write_bytes("Où est".encode("latin-1"))
    assert "latin.txt: cannot be read" in context_error(latin)
    assert "latin.csv: cannot be read" in context_error(latin.rename(tmp_path / "latin.csv"))
    (tmp_path / "folder.csv").mkdir()
    assert "folder.csv: cannot be read" in context_error(tmp_path / "folder.csv")
    folder = tmp_path / "folder.jsonl"
    folder.mkdir()
    assert "folder.jsonl: cannot be read" in context_error(folder)
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1 and nothing else")
    assert "broken.parquet: cannot be read" in context_error(broken)


@pytest.mark.parametrize(
    ("line", "format", "message"),
    [
        ("{text: 1}", "lines", "rows.jsonl, row 2: is no JSON"),
        ('["text"]', "lines", "row 2: found list, expected an object"),
        ('{"prompt": "a b"}', "lines", "row 2: has no `text`, found prompt"),
        ('{"text": " "}', "lines", "row 2: `text` is empty"),
        ('{"text": 7}', "lines", "row 2: `text` is 7, expected a string"),
        ('{"text": "a b", "reference": 7}', "lines", "row 2: `reference` is 7, expected a string"),
        ('{"text": "a b"}', "rtp", "row 2: has no `prompt`, found text"),
        ('{"prompt": "a b"}', "rtp", "row 2, `prompt`: found str, expected an object"),
        ('{"prompt": {"toxicity": 0.9}}', "rtp", "row 2, `prompt`: has no `text`, found toxicity"),
        ('{"prompt": {"text": "a b"}}', "rtp", "row 2, `prompt`: has no `toxicity`, found text"),
        (
            '{"prompt": {"text": "a b", "toxicity": "high"}}',
            "rtp",
            "row 2, `prompt`: `toxicity` is 'high', expected a number or null",
        ),
        (
            '{"prompt": {"text": "a b", "toxicity": 0.9}, "continuation": "c"}',
            "rtp",
            "row 2, `continuation`: found str, expected an object",
        ),
        (
            '{"prompt": {"text": "a b", "toxicity": 90}}',
            "rtp",
            "row 2, `prompt`: `toxicity` is 90, expected 0 to 1",
        ),
        (
            '{"prompt": {"text": "a b", "toxicity": 0.9}, "continuation": {"toxicity": [1]}}',
            "rtp",
            "row 2, `continuation`: `toxicity` is [1], expected a number or null",
        ),
        (
            '{"comment": "a b", "toxicity": 0.9}',
            "civil_comments",
            "row 2: has no `text` or `comment_text`, found comment, toxicity",
        ),
        (
            '{"text": "a b"}',
            "civil_comments",
            "row 2: has no `toxicity` or `target`, found text",
        ),
        (
            '{"comment_text": 7, "target": 0.9}',
            "civil_comments",
            "row 2: `comment_text` is 7, expected a string",
        ),
        (
            '{"comment_text": "a b", "target": "mild"}',
            "civil_comments",
            "row 2: `target` is 'mild', expected a number or null",
        ),
    ],
)
def test_a_bad_row_is_named(tmp_path, line, format, message):
    good = {"text": "A good row", "toxicity": 0.9, **rtp_row("A good row", 0.9)}
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(good) + "\n" + line + "\n")
    options = {} if format == "lines" else {"min_prompt_toxicity": 0.5}
    assert message in context_error(file, format=format, **options)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "text,toxicity\na b,0.9\na, b,0.9\n",
            "row 2: found 3 fields, expected 2 as in the header",
        ),
        ("text,toxicity\na b,0.9\na b,high\n", "row 2: `toxicity` is 'high', expected a number"),
        ("text,toxicity\na b,0.9\na b,nan\n", "row 2: `toxicity` is 'nan', expected 0 to 1"),
        ('text,toxicity\na b,0.9\n"a b,0.9\n', "line 3: is no CSV (unexpected end of data)"),
        ("words,toxicity\na b,0.9\n", "row 1: has no `text` or `comment_text`, found words, tox"),
        ("", "found no text"),
    ],
)
def test_a_bad_csv_row_is_named(tmp_path, content, message):
    file = tmp_path / "rows.csv"
    file.write_text(content)
    assert message in context_error(file, format="civil_comments", min_prompt_toxicity=0.5)


def test_an_empty_set_is_an_error(tmp_path):
    file = tmp_path / "empty.txt"
    file.write_text("\n \n")
    assert "empty.txt: found no text" in context_error(file)
    rows = write_rows(tmp_path / "mild.jsonl", [rtp_row("Mild", 0.1)])
    assert "found no text" in context_error(rows, format="rtp", min_prompt_toxicity=0.5)
    with pytest.raises(InputError, match="found no text"):
        load_passages(TextSource(source=str(file), format="wikitext", splits={Split.FINAL: 1}))


def test_a_split_that_ends_up_empty_is_named(tmp_path):
    file = tmp_path / "one.txt"
    file.write_text("The only opening")
    empty = next(s for s in SHARES if s is not split_of("The only opening", SHARES))
    message = context_error(file, splits=SHARES)
    assert f"splits.{empty} has share {SHARES[empty]} but got none of 1 texts" in message


def test_formats_that_do_not_fit_are_named(tmp_path):
    file = tmp_path / "lines.txt"
    file.write_text("An opening")
    assert "found .txt, expected .jsonl or .parquet" in context_error(file, format="rtp")
    message = context_error(file, format="civil_comments")
    assert "civil_comments found .txt, expected .jsonl, .csv or .parquet" in message
    assert "need format rtp" in context_error(file, min_prompt_toxicity=0.5)
