"""A search's history: the log alone commits, and rescoring equals scoring afresh."""

import numpy as np
import pytest

from rnr_dist.config.reveal import Reveal
from rnr_dist.errors import InputError
from rnr_dist.reveal.history import Fill, History
from rnr_dist.reveal.scoring import score_batch
from rnr_dist.reveal.vendi import SecondMoment
from rnr_dist.run.directory import read_rows
from rnr_dist.run.events import EventLog
from rnr_dist.types import Pull, Sample, Split

DIMENSION = 6


def embeddings(seed, n=5, spread=1.0):
    rows = np.random.default_rng(seed).normal(size=(n, DIMENSION)) * spread + 1
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def samples(pull_id, texts=("one", "two")):
    return [
        Sample(
            "m", "toxicity", Split.TRAIN, "challenging", f"c{i}", i, "ask", "Say", (1, i), text,
            "length", 0.9, "fake", pull_id,
        )
        for i, text in enumerate(texts)
    ]  # fmt: skip


def pull(history, number, arm, relevance=0.5, outer=0):
    found = embeddings(number)
    score, diversity = history.score(found, relevance)
    version = len(history.fills)
    return (
        Pull(f"p{number}", outer, arm, "Say", relevance, diversity, score, version, len(found)),
        samples(f"p{number}"),
        found,
        np.array([number, arm], dtype=float),
    )


def fill(outer, n_rows=2):
    return Fill(outer, 1, "Say", 0.5, 0.6, 0.4, 8, n_rows)


@pytest.fixture
def opened(tmp_path):
    """Open the history in one folder, as often as it is called."""
    return lambda **changes: History(tmp_path, Reveal(**changes), DIMENSION)


def test_a_history_is_what_was_committed(opened):
    history = opened()
    for number in range(3):
        history.add_pull(*pull(history, number, arm=number))
    history.add_fill(fill(0), samples("f0"), embeddings(10, n=2))
    history.add_pull(*pull(history, 3, arm=7, outer=1))
    again = opened()
    assert (again.pulls, again.fills) == (history.pulls, history.fills)
    assert len(again.pulls) == 4 and again.get("p2") and not again.get("p9")
    assert np.array_equal(again.moment.sum, history.moment.sum)
    assert again.moment.count == 2
    assert np.array_equal(again.embeddings("p1"), embeddings(1))
    assert again.rescored() == history.rescored()
    assert again.forget_rows() == history.forget_rows() == samples("f0")


def test_a_pull_that_arrives_twice_counts_once(opened):
    history = opened()
    first = pull(history, 0, arm=0)
    history.add_pull(*first)
    history.add_pull(first[0], samples("other"), embeddings(99), np.zeros(2))
    assert history.pulls == [first[0]]
    assert np.array_equal(opened().embeddings("p0"), embeddings(0))
    assert opened().pulls == [first[0]]


def test_a_file_without_its_line_does_not_count(opened, tmp_path):
    history = opened()
    history.add_pull(*pull(history, 0, arm=0))
    history.add_pull(*pull(history, 1, arm=1))
    history.add_fill(fill(0), samples("f0"), embeddings(10, n=2))
    log = tmp_path / "events.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(lines[:1]) + lines[1][:20])  # the crash came while it was written
    again = opened()
    assert [found.id for found in again.pulls] == ["p0"]
    assert (again.fills, again.moment.count, again.forget_rows()) == ([], 0, [])
    assert again.get("p1") is None
    again.add_pull(*pull(again, 1, arm=1))  # done again, over the file that lies there
    assert [found.id for found in opened().pulls] == ["p0", "p1"]


def test_commits_made_together_stand_in_the_log_when_the_block_ends(opened, tmp_path):
    history = opened()
    with pytest.raises(RuntimeError), history.together():
        for number in range(3):
            history.add_pull(*pull(history, number, arm=number))
        assert len(history.pulls) == 3
        assert not (tmp_path / "events.jsonl").exists()
        raise RuntimeError("what is whole counts all the same")
    assert opened().pulls == history.pulls
    history.add_pull(*pull(history, 3, arm=3))
    assert len(opened().pulls) == 4


def add_group(history, numbers, again=None):
    """Commit pulls together, and that one of them was chosen again."""
    with history.together():
        for number in numbers:
            history.add_pull(*pull(history, number, arm=number))
        if again is not None:
            history.add_repeat(history.get(f"p{again}"), 90 + again, np.array([again, 90.0]))


def names_of(folder):
    return sorted(path.name for path in (folder / "pulls").iterdir())


def require_whole(history, numbers):
    """These pulls and no others, each once, with what it brought."""
    assert [found.id for found in history.pulls] == [f"p{number}" for number in numbers]
    for number in numbers:
        assert np.array_equal(history.embeddings(f"p{number}"), embeddings(number))
        assert history.pick(f"p{number}").tolist() == [number, number]


def test_what_is_committed_together_shares_two_files(opened, tmp_path):
    history = opened()
    add_group(history, [3, 1, 2], again=1)
    history.add_failure(0, 9, "p9", "no answer")
    assert names_of(tmp_path) == ["p3.npz", "p3.parquet"]
    rows = read_rows(tmp_path / "pulls" / "p3.parquet", Sample)
    assert rows == [row for number in (3, 1, 2) for row in samples(f"p{number}")]
    again = opened()
    require_whole(again, [3, 1, 2])
    assert [again.pick(move.pull_id).tolist() for move in again.moves[:4]] == [
        [3, 3],
        [1, 1],
        [2, 2],
        [1, 90],
    ]
    assert again.rescored() == history.rescored()


def test_a_crash_amid_a_group_loses_no_line_that_is_whole_and_doubles_none(opened, tmp_path):
    """Wherever the log ends, what its whole lines say is there; the rest is done again."""
    history, log = opened(), tmp_path / "events.jsonl"
    add_group(history, [0, 1])
    first = len(log.read_bytes())
    add_group(history, [2, 3, 4])
    whole = log.read_bytes()
    for end in range(first, len(whole), 97):
        log.write_bytes(whole[:end])
        again = opened()
        there = range(whole[:end].count(b"\n"))
        require_whole(again, there)
        # In another order and other groups, over the files that lie there.
        left = [number for number in (4, 3, 2) if number not in there]
        add_group(again, [*there, *left])
        require_whole(opened(), [*there, *left])


def test_files_whose_lines_were_never_written_do_not_count(opened, tmp_path, monkeypatch):
    def full(log, *events):
        raise OSError("no space left")

    history = opened()
    add_group(history, [0])
    with monkeypatch.context() as patched, pytest.raises(OSError, match="no space left"):
        patched.setattr(EventLog, "append", full)
        add_group(history, [1, 2])
    assert names_of(tmp_path) == ["p0.npz", "p0.parquet", "p1.npz", "p1.parquet"]
    again = opened()
    require_whole(again, [0])
    add_group(again, [2, 1])
    require_whole(opened(), [0, 2, 1])


def test_a_line_of_a_group_that_is_damaged_later_leaves_the_ones_before(opened, tmp_path):
    history, log = opened(), tmp_path / "events.jsonl"
    add_group(history, [0, 1, 2])
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(lines[0] + lines[1].replace(b"Say", b"say") + lines[2])
    again = opened()
    require_whole(again, [0])
    add_group(again, [1, 2])
    require_whole(opened(), [0, 1, 2])


def test_a_search_whose_pulls_had_files_of_their_own_is_read(opened, tmp_path):
    history, log = opened(), EventLog(tmp_path / "events.jsonl")
    for number in range(2):
        history.add_pull(*pull(history, number, arm=number))
    events = log.read()
    log.path.unlink()
    log.append(*({key: of for key, of in event.items() if key != "file"} for event in events))
    for number in range(2):
        arrays = {"embeddings": embeddings(number), "pick": np.array([number, number])}
        np.savez(tmp_path / "pulls" / f"p{number}.npz", **arrays)
    again = opened()
    add_group(again, [2, 3])
    require_whole(opened(), [0, 1, 2, 3])


@pytest.mark.parametrize("mode", ["weighted", "union"])
def test_rescoring_equals_scoring_afresh_under_the_forget_set_of_now(opened, mode):
    history = opened(diversity=mode, alpha=0.4, batch_weight=0.3)
    for number, relevance in enumerate((0.2, 0.9, 0.6)):
        history.add_pull(*pull(history, number, number, relevance))
    history.add_fill(fill(0), samples("f0"), embeddings(10, n=2))
    history.add_fill(fill(1), samples("f1"), embeddings(11, n=9, spread=0.2))
    moment = SecondMoment(DIMENSION).add(embeddings(10, n=2)).add(embeddings(11, n=9, spread=0.2))
    for open_history in (history, opened(diversity=mode, alpha=0.4, batch_weight=0.3)):
        for found in open_history.rescored():
            number = int(found.id[1:])
            fresh = score_batch(embeddings(number), found.relevance, moment, 0.4, mode, 0.3)
            assert (found.score, found.vendi) == pytest.approx(fresh)
            assert found.forget_set_version == 2
            assert found.score != pytest.approx(history.pulls[number].score)


def test_moves_are_what_the_bandit_was_told_in_order(opened):
    history = opened()
    first = pull(history, 0, arm=4)
    history.add_pull(*first)
    history.add_failure(0, 9, "p9", "the oracle returned nan for response 0, expected 0 to 1")
    history.add_repeat(first[0], 5, np.array([7.0]))
    again = opened()
    assert again.moves == history.moves
    assert [(move.arm, move.score) for move in again.moves] == [
        (4, first[0].score),
        (9, None),
        (5, first[0].score),
    ]
    assert [again.pick(m.pull_id).tolist() for m in again.moves if m.score] == [[0, 4], [7]]
    assert (again.spent(0), again.spent(1), len(again.pulls)) == (2, 0, 1)
    assert [move.cause for move in again.failures] == [again.moves[1].cause]


def test_rechecks_are_kept_apart_from_pulls(opened):
    history = opened()
    history.add_recheck(*pull(history, 3, arm=4)[:3])
    assert [found.id for found in opened().rechecks] == ["p3"]
    assert opened().pulls == [] and opened().moves == []


def test_the_latest_pull_of_an_arm_stands_for_it(opened):
    history = opened()
    history.add_pull(*pull(history, 0, arm=4, relevance=0.1))
    history.add_pull(*pull(history, 1, arm=5))
    history.add_pull(*pull(history, 2, arm=4, relevance=0.8, outer=1))
    assert {found.arm: found.id for found in history.rescored()} == {4: "p2", 5: "p1"}


def test_the_forget_set_holds_equal_texts_of_a_context_once(opened):
    history = opened()
    history.add_fill(fill(0), samples("f0", ["same", "two"]), embeddings(10, n=2))
    history.add_fill(fill(1, n_rows=0), [], embeddings(11, n=0))
    history.add_fill(fill(2), samples("f2", ["same", "same"]), embeddings(12, n=2))
    rows = opened().forget_rows()
    # Context c0 said `same` twice; that c1 says it too is another row.
    assert [(row.context_id, row.text) for row in rows] == [
        ("c0", "same"),
        ("c1", "two"),
        ("c1", "same"),
    ]
    assert all(row.split is Split.TRAIN for row in rows)


@pytest.mark.parametrize("damage", ["cut", "flip", "gone"])
def test_damaged_embeddings_are_one_sentence(opened, tmp_path, damage):
    history = opened()
    history.add_pull(*pull(history, 0, arm=0))
    path = tmp_path / "pulls" / "p0.npz"
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        middle = len(content) // 3
        rest = bytes([content[middle] ^ 1]) + content[middle + 1 :] if damage == "flip" else b""
        path.write_bytes(content[:middle] + rest)
    with pytest.raises(InputError, match=r"p0\.npz: found no whole embeddings .* searches anew"):
        opened().embeddings("p0")


def test_embeddings_that_a_groups_file_lacks_are_one_sentence(opened, tmp_path):
    history = opened()
    add_group(history, [0, 1])
    arrays = {"p0/embeddings": embeddings(0), "p0/pick": np.zeros(2)}
    np.savez(tmp_path / "pulls" / "p0.npz", **arrays)
    again = opened()
    assert np.array_equal(again.embeddings("p0"), embeddings(0))
    with pytest.raises(InputError, match=r"p0\.npz: found no whole .*; expected those of p1: "):
        again.embeddings("p1")
