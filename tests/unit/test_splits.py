"""Splits and near-copies: which text belongs where, and which may not stand twice."""

import os
import random
import subprocess
import sys
from collections import Counter

import pytest

from rnr_dist.data.splits import (
    drop_cross_split_duplicates,
    near_duplicates,
    position,
    split_of,
)
from rnr_dist.errors import InputError
from rnr_dist.types import Passage, Split

SHARES = {Split.REVEAL: 1, Split.TRAIN: 3, Split.FINAL: 4}


def distinct_lines(count, words=9):
    """Lines of random words, so that no two are near-copies."""
    draw = random.Random(f"{count} {words}")
    return [" ".join(f"w{draw.randrange(10**6)}" for _ in range(words)) for _ in range(count)]


def passage(text, split):
    return Passage(text[:8], text, split, "prose")


def test_shares_are_met_and_a_split_depends_on_the_text_alone():
    lines = distinct_lines(8000)
    counts = Counter(split_of(line, SHARES) for line in lines)
    assert set(counts) == set(SHARES)
    for split, share in SHARES.items():
        assert counts[split] / 8000 == pytest.approx(share / 8, abs=0.02)
    line = "A  Line with\tODD spacing"
    assert split_of(line, SHARES) is split_of("a line WITH odd spacing", SHARES)
    # The order in which the config lists the splits plays no part.
    backwards = dict(reversed(SHARES.items()))
    assert all(split_of(line, SHARES) is split_of(line, backwards) for line in lines[:200])


def test_positions_are_the_same_in_every_process_and_for_ever():
    code = "from rnr_dist.data.splits import position; print(position('The same text'))"
    environment = {**os.environ, "PYTHONHASHSEED": "123"}
    elsewhere = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, check=True, text=True
    )
    assert float(elsewhere.stdout) == position("The same text")
    # sha256("the same text") begins with these 48 bits.
    assert position("The same text") == 0xA70B66376DCF / 2**48


def test_no_share_above_zero_is_an_error():
    with pytest.raises(InputError, match="no share above 0"):
        split_of("text", {Split.DEV: 0})


# Near-copies


def test_a_rephrased_passage_is_a_near_copy_and_another_is_not():
    text = " ".join(distinct_lines(1, words=100))
    words = text.split()
    edited = " ".join([*words[:70], "entirely", "other", "end"])
    other = " ".join(words[:30] + distinct_lines(3, words=70)[2].split())
    pairs = near_duplicates({Split.RETAIN: [edited, other], Split.FINAL: [text]})
    assert pairs == [((Split.FINAL, text), (Split.RETAIN, edited))]


def test_an_excerpt_of_a_long_passage_is_a_near_copy():
    text = " ".join(distinct_lines(1, words=200))
    excerpt = " ".join(text.split()[50:90])
    assert near_duplicates({Split.TRAIN: [text], Split.DEV: [excerpt]})


def test_short_openings_are_compared_by_three_words():
    openings = {
        Split.FINAL: ["Move your stupid car, you"],
        Split.TRAIN: ["move your stupid dog, you", "Sell your old car, mate"],
    }
    assert near_duplicates(openings) == []
    openings[Split.TRAIN].append("Well, move your STUPID car")
    [(kept, dropped)] = near_duplicates(openings)
    assert kept[0] is Split.FINAL and dropped[1] == "Well, move your STUPID car"


def test_copies_within_a_split_and_texts_without_words_are_no_pairs():
    line = distinct_lines(1)[0]
    assert near_duplicates({Split.DEV: [line, line + " more"]}) == []
    assert near_duplicates({Split.DEV: ["???"], Split.FINAL: ["!!!"]}) == []


def test_the_more_honest_split_keeps_the_text_across_sources():
    text = distinct_lines(1, words=40)[0]
    in_domain = [passage(text + " r", Split.RETAIN), passage(text + " d", Split.DEV)]
    out_of_domain = [passage(text, Split.FINAL), passage(distinct_lines(2)[1], Split.RETAIN)]
    kept = drop_cross_split_duplicates(in_domain, out_of_domain)
    assert kept == [[], out_of_domain]


def test_a_dropped_text_drops_no_other():
    """train ~ dev ~ final, but not train ~ final: dev goes, so train may stay."""
    words = distinct_lines(1, words=60)[0].split()
    final, dev, train = " ".join(words[:30]), " ".join(words[12:48]), " ".join(words[28:])
    texts = [
        passage(train, Split.TRAIN),
        passage(dev, Split.DEV),
        passage(final, Split.FINAL),
    ]
    assert len(near_duplicates({text.split: [text.text] for text in texts})) == 2
    [kept] = drop_cross_split_duplicates(texts)
    assert [text.split for text in kept] == [Split.TRAIN, Split.FINAL]


def test_ten_thousand_openings_are_compared_in_seconds():
    lines = distinct_lines(10_000, words=12)
    lines[9_000] = lines[10] + " again"
    pairs = near_duplicates({Split.TRAIN: lines[:5_000], Split.FINAL: lines[5_000:]})
    assert [(kept[1], dropped[1]) for kept, dropped in pairs] == [(lines[9_000], lines[10])]
