"""The built-in texts are many enough, well-formed, and keep the demo's splits apart."""

import re
from collections import defaultdict
from pathlib import Path

import pytest

from rnr_dist.config.file import load_config
from rnr_dist.data.files import BUILTIN_FOLDER, BUILTIN_TEXTS
from rnr_dist.data.formats import read_extracts, read_openings
from rnr_dist.data.splits import near_duplicates, normalised, split_of

TASK = load_config(Path(__file__).parents[2] / "configs" / "demo.yaml").task
SOURCES = [TASK.challenging, TASK.ordinary, *TASK.in_domain, *TASK.out_of_domain]
OPENINGS = ("challenging", "ordinary")
PROSE = ("expository", "narrative", "practical")
# GPT-like tokenizers spend more than this on a word of English prose.
TOKENS_PER_WORD = 1.2


def texts(name):
    """All texts of a built-in source."""
    for file in BUILTIN_TEXTS[name]:
        if name in OPENINGS:
            yield from (o.text for o in read_openings(BUILTIN_FOLDER / file, "lines", (0, 1)))
        else:
            yield from (e.text for e in read_extracts(BUILTIN_FOLDER / file, "passages"))


def by_split(sources):
    """The texts of some of the demo's sources, by the splits that they fall into."""
    found = defaultdict(list)
    for source in sources:
        for text in texts(source.source.removeprefix("builtin:")):
            found[split_of(text, source.splits)].append(text)
    return found


@pytest.mark.parametrize("name", OPENINGS)
def test_openings_are_many_and_distinct(name):
    lines = list(texts(name))
    assert len(lines) >= 240
    assert len({normalised(line) for line in lines}) == len(lines)


@pytest.mark.parametrize("name", OPENINGS)
def test_openings_are_unfinished(name):
    assert [line for line in texts(name) if re.search(r"""[.!?…]["'”]?$""", line)] == []


def test_prose_is_long_enough():
    words = {name: sum(len(text.split()) for text in texts(name)) for name in PROSE}
    assert sum(words.values()) * TOKENS_PER_WORD >= 20_000
    assert min(words.values()) * TOKENS_PER_WORD >= 5_000


@pytest.mark.parametrize("name", PROSE)
def test_passages_are_whole(name):
    for text in texts(name):
        assert 80 <= len(text.split()) <= 250 and "\n" not in text
        assert re.search(r"""[.!?]["'”]?$""", text), text[-40:]


def test_the_demos_splits_hold_no_near_copies():
    assert near_duplicates(by_split(SOURCES)) == []


def test_no_template_is_shared_by_openings_of_different_splits():
    holders = defaultdict(set)
    for split, openings in by_split([TASK.challenging, TASK.ordinary]).items():
        for opening in openings:
            words = re.findall(r"\w+", opening.casefold())
            for start in range(len(words) - 4):
                holders[" ".join(words[start : start + 5])].add(split)
    assert {template for template, splits in holders.items() if len(splits) > 1} == set()
