"""Every example of docs/bring-your-own.md loads, is read or runs."""

import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from rnr_dist.config.base import merged
from rnr_dist.config.file import validate
from rnr_dist.config.oracles import settings_of
from rnr_dist.config.sources import ContextSource, SequenceSource
from rnr_dist.data.files import files_of
from rnr_dist.data.formats import read_records
from rnr_dist.data.sources import load_contexts
from rnr_dist.errors import InputError
from rnr_dist.score.oracles import ORACLES, check_oracle, make_oracle
from rnr_dist.tasks.task import make_task
from rnr_dist.types import Split

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "bring-your-own.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+) ?(\S*)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
FILES = {name: text for _, name, text in BLOCKS if name}
FRAGMENTS = [yaml.safe_load(text) for kind, _, text in BLOCKS if kind == "yaml"]
BASES = {
    "toxicity": yaml.safe_load((ROOT / "configs" / "demo.yaml").read_text(encoding="utf-8")),
    "extraction": {"name": "own", "task": {}},
    "my_task:Loud": {"name": "own", "task": {}},
}


@pytest.fixture(autouse=True)
def files(tmp_path, monkeypatch):
    """The page's files, where a reader would have put them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, text in FILES.items():
        (tmp_path / name).write_text(text, encoding="utf-8")


def whole(fragment):
    """The config that a piece of the page stands in."""
    base = BASES[fragment.get("task", {}).get("name", "toxicity")]
    return validate(merged(base, fragment), "page")


def sources(value):
    """Every source in a piece, with its section."""
    if isinstance(value, dict):
        if "source" in value:
            yield value
        for inner in value.values():
            yield from sources(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from sources(inner)


def oracles():
    """What the pieces name or set as oracle or judge."""
    tasks = [fragment.get("task", {}) for fragment in FRAGMENTS]
    return [task[key] for task in tasks for key in ("oracle", "second_judge") if key in task]


@pytest.mark.parametrize("fragment", FRAGMENTS, ids=lambda fragment: str(fragment)[:60])
def test_each_piece_makes_a_config(fragment):
    task = whole(fragment).content()["task"]
    for key, value in fragment.get("task", {}).items():
        if isinstance(value, dict) and "source" in value:
            assert task[key]["source"] == value["source"]
        if key == "oracle":
            assert task[key] == value or settings_of(task[key]) == settings_of(value)


def test_the_page_s_files_are_read_by_the_pieces_that_name_them():
    read = set()
    for fragment in FRAGMENTS:
        own = fragment.get("task", {}).get("name") == "extraction"
        for section in sources(fragment):
            if section["source"] not in FILES:
                continue
            read.add(section["source"])
            lines = FILES[section["source"]].splitlines()
            if own:
                source = SequenceSource(**section)
                [file] = files_of(source.source, source.columns)
                records = list(read_records(file))
                assert len(records) == len(lines) and records[0].corpus == "letter"
                continue
            source = ContextSource(**{**section, "splits": {Split.REVEAL: 1}})
            found = load_contexts(source, "own")
            assert len(found) == len(lines)
            assert any(context.reference for context in found)
    assert read == {name for name in FILES if name.endswith(".jsonl")}


def test_the_page_s_refusal_is_what_is_said(tmp_path):
    [told] = re.findall(r"^    (comments.jsonl, row 2: .*)$", PAGE, re.MULTILINE)
    lines = FILES["comments.jsonl"].splitlines()
    lines[1] = '{"id": 2, "body": "none", "rest": "a"}'
    (tmp_path / "comments.jsonl").write_text("\n".join(lines), encoding="utf-8")
    [fragment] = [f for f in FRAGMENTS if "body.comment" in str(f)]
    section = {**fragment["task"]["challenging"], "splits": {Split.REVEAL: 1}}
    with pytest.raises(InputError) as refused:
        load_contexts(ContextSource(**section), "own")
    assert str(refused.value) == told


def test_every_oracle_that_ships_has_its_example():
    shown = {settings_of(one).name for one in oracles()}
    for name in ORACLES:
        assert name in PAGE
        kind = name.removesuffix("MODEL")
        assert name in ("profanity", "lexicon") or any(one.startswith(kind) for one in shown), name


def test_the_page_s_oracle_shouts():
    check_oracle("my_oracle:Shouting")
    found = make_oracle("my_oracle:Shouting").score(["", "", ""], ["NO", "no", ""])
    np.testing.assert_array_equal(found, [1, 0, 0])


def test_the_page_s_task_is_whole():
    [fragment] = [f for f in FRAGMENTS if f.get("task", {}).get("name") == "my_task:Loud"]
    task = make_task(whole(fragment))
    assert task.oracle == "my_oracle:Shouting" and task.contexts(Split.FINAL, "forget")
