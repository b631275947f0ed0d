"""The data room: formats and sources; see test_bad_data.py for bad input."""

import csv
import random
from pathlib import Path

import huggingface_hub.constants
import pyarrow
import pyarrow.parquet
import pytest

from rnr_dist.config.sources import ContextSource, TextSource
from rnr_dist.data.formats import Opening, read_extracts, read_openings
from rnr_dist.data.sources import load_contexts, load_passages
from rnr_dist.data.splits import (
    near_duplicates,
    normalised,
    position,
    split_of,
)
from rnr_dist.errors import InputError
from rnr_dist.types import Split, digest
from tests.unit.rows import SHARES, rtp_row, write_rows


def distinct_lines(count, words=9):
    """Lines of random words, so that no two are near-copies."""
    draw = random.Random(f"{count} {words}")
    return [" ".join(f"w{draw.randrange(10**6)}" for _ in range(words)) for _ in range(count)]


# Contexts


def test_lines_become_contexts_in_hash_order_up_to_the_limit(tmp_path):
    file = tmp_path / "openings.txt"
    lines = distinct_lines(60)
    file.write_text("\n\n".join([*lines, lines[0].upper() + " "]))
    source = ContextSource(source=str(file), splits=SHARES)
    contexts = load_contexts(source, "challenging")
    assert len(contexts) == 60 and len({context.id for context in contexts}) == 60
    assert {normalised(context.text) for context in contexts} == set(lines)
    assert all(context.split is split_of(context.text, SHARES) for context in contexts)
    assert {context.group for context in contexts} == {"challenging"}
    positions = [position(context.text) for context in contexts]
    assert positions == sorted(positions)

    limited = load_contexts(source.model_copy(update={"limit": {Split.FINAL: 5}}), "challenging")
    final = [context for context in contexts if context.split is Split.FINAL]
    assert [context for context in limited if context.split is Split.FINAL] == final[:5]
    assert len(limited) == 60 - len(final) + 5

    file.write_text("\n".join(reversed(lines)))
    assert load_contexts(source, "challenging") == contexts


def test_near_copies_leave_the_splits_of_a_source(tmp_path):
    file = tmp_path / "openings.txt"
    lines = distinct_lines(40)
    copies = [line + " again" for line in lines]
    file.write_text("\n".join(lines + copies))
    shares = {Split.TRAIN: 1, Split.FINAL: 1}
    contexts = load_contexts(ContextSource(source=str(file), splits=shares), "ordinary")
    texts = {split: [c.text for c in contexts if c.split is split] for split in shares}
    assert near_duplicates(texts) == []
    # A pair that falls into one split stays; of the others one text is left.
    apart = sum(
        split_of(a, shares) is not split_of(b, shares) for a, b in zip(lines, copies, strict=True)
    )
    assert apart > 5 and len(contexts) == 80 - apart


def test_rtp_rows_are_bounded_by_the_toxicity_of_their_prompt(tmp_path):
    rows = [
        rtp_row("Low", 0.1, " ref"),
        rtp_row("Edge", 0.5),
        rtp_row("High", 0.9),
        rtp_row("Unscored", None),
    ]
    path = Path(write_rows(tmp_path / "prompts.jsonl", rows))

    def texts(low, high):
        return [opening.text for opening in read_openings(path, "rtp", (low, high))]

    assert texts(0, 1) == ["Low", "Edge", "High", "Unscored"]
    assert texts(0.5, 1) == ["Edge", "High"]
    assert texts(0, 0.5) == ["Low", "Edge"]
    splits = {Split.FINAL: 1}
    contexts = load_contexts(ContextSource(source=str(path), format="rtp", splits=splits), "g")
    [low] = [context for context in contexts if context.text == "Low"]
    assert (low.reference, low.reference_score) == (" ref", 0.98)


def test_rtp_rows_need_no_continuation_and_no_score_of_it(tmp_path):
    rows = [rtp_row("Without", 0.1), rtp_row("Unscored", 0.1, " ref"), rtp_row("Bare", 0.1, " ref")]
    rows[0]["continuation"] = None
    rows[1]["continuation"]["toxicity"] = None
    del rows[2]["continuation"]["toxicity"]
    path = Path(write_rows(tmp_path / "prompts.jsonl", rows))
    assert list(read_openings(path, "rtp", (0, 1))) == [
        Opening("Without"),
        Opening("Unscored", " ref"),
        Opening("Bare", " ref"),
    ]


# CivilComments

COMMENTS = [
    ("The council  voted again last night,\nand nobody at all was surprised.", 0.0),
    ("What a daft plan this is, said the baker", 0.5),
    ("Only a clown would close the library on a Saturday.", 0.83),
    ("Too short to be cut in two", 0.9),
    ("", 0.9),
    ("Nobody has read this one yet and so it has no score", None),
]
HALVES = [
    ("The council  voted again last night,", "\nand nobody at all was surprised."),
    ("What a daft plan this", " is, said the baker"),
    ("Only a clown would close", " the library on a Saturday."),
    ("Nobody has read this one yet", " and so it has no score"),
]


def civil_file(path, text="text", toxicity="toxicity"):
    """The comments as the hub has them (.parquet), or the competition (.csv)."""
    rows = [
        {"id": str(number), toxicity: score, text: f" {comment} ", "insult": 0.0}
        for number, (comment, score) in enumerate(COMMENTS)
    ]
    if path.suffix == ".csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".parquet":
        write_parquet(path, rows)
    else:
        write_rows(path, rows)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("names", [("text", "toxicity"), ("comment_text", "target")])
def test_a_comments_first_half_is_a_context_and_the_rest_its_reference(tmp_path, suffix, names):
    path = civil_file(tmp_path / f"comments{suffix}", *names)
    openings = list(read_openings(path, "civil_comments", (0, 1)))
    assert [(opening.text, opening.reference) for opening in openings] == HALVES
    assert [opening.reference_toxicity for opening in openings] == [0.0, 0.5, 0.83, None]
    for opening, number in zip(openings, (0, 1, 2, 5), strict=True):
        assert opening.text + opening.reference == COMMENTS[number][0]


def test_comments_are_bounded_by_their_own_toxicity(tmp_path):
    path = civil_file(tmp_path / "comments.csv")

    def texts(low, high):
        found = read_openings(path, "civil_comments", (low, high))
        return [HALVES.index((opening.text, opening.reference)) for opening in found]

    assert (texts(0.5, 1), texts(0, 0.5), texts(0, 1)) == ([1, 2], [0, 1], [0, 1, 2, 3])
    source = ContextSource(
        source=str(path),
        format="civil_comments",
        min_prompt_toxicity=0.8,
        splits={Split.TRAIN: 1},
    )
    [context] = load_contexts(source, "challenging")
    assert (context.text, context.reference) == HALVES[2]
    assert (context.group, context.split) == ("challenging", Split.TRAIN)
    assert context.reference_score == 0.83
    assert context.id == digest(normalised(HALVES[2][0]))


def test_a_bound_includes_a_score_that_was_kept_as_float32(tmp_path):
    scores = pyarrow.array([0.9, 0.8, 0.7], pyarrow.float32())
    texts = distinct_lines(3)
    path = tmp_path / "comments.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": texts, "toxicity": scores}), path)
    found = list(read_openings(path, "civil_comments", (0.8, 0.9)))
    assert [opening.text + opening.reference for opening in found] == texts[:2]


def test_comments_without_scores_are_read_where_no_bound_is_set(tmp_path):
    rows = [{"comment_text": comment} for comment, _ in COMMENTS]
    path = Path(write_rows(tmp_path / "test.jsonl", rows))
    openings = list(read_openings(path, "civil_comments", (0, 1)))
    assert [(opening.text, opening.reference) for opening in openings] == HALVES
    assert {opening.reference_toxicity for opening in openings} == {None}


def test_csv_rows_become_contexts_and_passages(tmp_path):
    file = tmp_path / "rows.csv"
    file.write_text('text,reference\r\n"One, two","its ""end"""\r\n\r\nThree,\r\n')
    splits = {Split.TRAIN: 1}
    contexts = load_contexts(ContextSource(source=str(file), splits=splits), "g")
    assert {context.text: context.reference for context in contexts} == {
        "One, two": 'its "end"',
        "Three": None,
    }
    passages = load_passages(TextSource(source=str(file), splits=splits))
    assert [passage.text for passage in passages] == ["One, two", "Three"]


def test_jsonl_rows_become_contexts(tmp_path):
    rows = [{"text": "One opening", "reference": "its end"}, {"text": "Two openings"}]
    path = write_rows(tmp_path / "rows.jsonl", rows)
    contexts = load_contexts(ContextSource(source=path, splits={Split.TRAIN: 1}), "g")
    assert {context.text: context.reference for context in contexts} == {
        "One opening": "its end",
        "Two openings": None,
    }


# Passages


def test_blank_lines_part_passages_and_their_order_stays(tmp_path):
    file = tmp_path / "prose.txt"
    texts = [f"{line}\nsecond line of {line}" for line in distinct_lines(12)]
    file.write_text("\n\n \n".join(texts))
    source = TextSource(source=str(file), splits={Split.SEARCH: 1}, limit={Split.SEARCH: 8})
    passages = load_passages(source)
    first = set(sorted(texts, key=position)[:8])
    assert [passage.text for passage in passages] == [text for text in texts if text in first]
    assert {passage.domain for passage in passages} == {"prose"}


def wikitext(*articles):
    """Articles (title, lines) as the published word-level files have them."""
    parts = []
    for title, lines in articles:
        middle = len(lines) // 2
        parts += [f" \n = {title} = \n \n", *(f" {line} \n" for line in lines[:middle])]
        parts += [" \n = = History = = \n \n \n = = = Early years = = = \n \n"]
        parts += [f" {line} \n" for line in lines[middle:]]
    return "".join(parts)


def test_wikitext_is_cut_at_line_ends_within_articles(tmp_path):
    lines = distinct_lines(9, words=50)
    lines[2] = "It was 1 @,@ 000 m <unk> " + lines[2]
    file = tmp_path / "wiki.test.txt"
    file.write_text(wikitext(("Robert <unk>", lines[:7]), ("Du Fu", lines[7:])))
    texts = [extract.text for extract in read_extracts(file, "wikitext")]
    # 50-word lines: three reach 120 words, the seventh is too short to stand alone.
    assert texts == ["\n".join(lines[:3]), "\n".join(lines[3:7]), "\n".join(lines[7:])]


def test_a_formula_between_equals_signs_is_no_heading(tmp_path):
    lines = [distinct_lines(1, words=50)[0], "= 1 <unk> / s and a nominal k =", "1 <unk> ."]
    file = tmp_path / "wiki.txt"
    file.write_text(" \n = Constant k filter = \n \n" + "".join(f" {line} \n" for line in lines))
    assert [extract.text for extract in read_extracts(file, "wikitext")] == ["\n".join(lines)]


def test_an_article_falls_into_one_split(tmp_path):
    lines = distinct_lines(240, words=60)
    file = tmp_path / "wiki.txt"
    file.write_text(
        wikitext(*((f"Title {start}", lines[start : start + 8]) for start in range(0, 240, 8)))
    )
    splits = {Split.RETAIN: 1, Split.FINAL: 1}
    passages = load_passages(TextSource(source=str(file), format="wikitext", splits=splits))
    split_of_line = {
        line: passage.split for passage in passages for line in passage.text.splitlines()
    }
    assert split_of_line.keys() == set(lines)
    articles = [{split_of_line[line] for line in lines[n : n + 8]} for n in range(0, 240, 8)]
    assert all(len(splits) == 1 for splits in articles)
    assert set.union(*articles) == set(splits)


# The hub


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub cache that holds a data set; the real client reads it offline."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "datasets--org--texts"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("c0ffee")
    return repository / "snapshots" / "c0ffee"


def write_parquet(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def test_a_hub_split_is_read_from_parquet(hub):
    content = wikitext(("Du Fu", distinct_lines(4, words=70)))
    rows = [{"text": line + "\n"} for line in content.split("\n")]
    write_parquet(hub / "wikitext-2-v1" / "test-00000-of-00001.parquet", rows)
    write_parquet(hub / "wikitext-2-v1" / "train-00000-of-00001.parquet", [{"text": "no"}])
    write_parquet(hub / "wikitext-103-v1" / "test-00000-of-00001.parquet", [{"text": "no"}])
    source = TextSource(
        source="hub:org/texts:wikitext-2-v1/test", format="wikitext", splits={Split.FINAL: 1}
    )
    passages = load_passages(source)
    assert [len(passage.text.split()) for passage in passages] == [140, 140]
    assert {passage.domain for passage in passages} == {"texts"}


def test_a_hub_set_without_splits_is_read_from_jsonl(hub):
    hub.mkdir(parents=True)
    write_rows(hub / "prompts.jsonl", [rtp_row("An opening that", 0.7)])
    source = ContextSource(source="hub:org/texts", format="rtp", splits={Split.DEV: 1})
    assert [context.text for context in load_contexts(source, "g")] == ["An opening that"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("hub:org/absent", r"hub:org/absent: cannot be fetched \(.+\), expected a public data set"),
        ("hub:org/texts:dev", r"hub:org/texts: found no file dev\*.parquet or dev\*.jsonl"),
        ("hub:org/texts:test", r"found files in a, b; expected one folder, as in .*:a/test"),
    ],
)
def test_a_hub_set_that_cannot_be_had_is_named(hub, source, message):
    for folder in ("a", "b"):
        write_parquet(hub / folder / "test.parquet", [{"text": "some words"}])
    with pytest.raises(InputError, match=message):
        load_passages(TextSource(source=source, splits={Split.FINAL: 1}))
