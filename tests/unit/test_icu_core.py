"""Who is forgotten, when it ends, who is paired with whom: without Ray, by hand or brute force."""

import numpy as np
import pytest

from rnr_dist.config.schema import Config
from rnr_dist.config.unlearning import Pairing
from rnr_dist.data.pairing import apart, make_index, pair_up, shares_words
from rnr_dist.errors import InputError
from rnr_dist.generate.requests import ReadLikelihood
from rnr_dist.icu.leaving import (
    EpochReading,
    Limits,
    best_epoch,
    forgotten,
    leaving,
    left_by,
    violation,
)
from rnr_dist.measures.similarity import sentence_bleu
from rnr_dist.tasks.extraction_materials import retained_texts
from rnr_dist.train.collate import Example, pad
from rnr_dist.types import TokenSequence

TASK = {"name": "extraction"}
LIMITS = Limits(bertscore=0.3, bleu=0.01, extraction=0.05, memorisation=0.6)
ALIKE = [LIMITS] * 3


def reading(bertscore=(0.2, 0.2, 0.9), bleu=(0.0, 0.5, 0.0), el=0.2, ma=0.9, epoch=1):
    many = len(bertscore)
    return EpochReading(epoch, bertscore, bleu, (el,) * many, (ma,) * many)


def test_and_asks_both_and_or_either():
    both = forgotten(reading(), ALIKE, "and")
    either = forgotten(reading(), ALIKE, "or")
    assert both == [True, False, False]
    assert either == [True, True, True]
    assert left_by(reading(), ALIKE) == {
        "bertscore": 2,
        "bleu": 2,
        "extraction": 0,
        "memorisation": 0,
    }


def test_or_drops_whatever_and_drops():
    draw = np.random.default_rng(0)
    for _ in range(50):
        one = reading(tuple(draw.random(8)), tuple(draw.random(8) / 30))
        both, either = (forgotten(one, [LIMITS] * 8, combine) for combine in ("and", "or"))
        assert all(other for this, other in zip(both, either, strict=True) if this)


def test_what_is_remembered_again_comes_back_unless_it_is_sticky():
    first = forgotten(reading(), ALIKE, "and")
    again = reading(bertscore=(0.9, 0.9, 0.9))
    assert forgotten(again, ALIKE, "and") == [False] * 3
    assert forgotten(again, ALIKE, "and", first) == [True, False, False]


def test_what_must_not_be_recalled_takes_the_averages_along():
    draw = np.random.default_rng(0)
    level = Limits(0.7, 0.7, 0.5, 0.6)
    for _ in range(50):
        one = EpochReading(1, *(tuple(draw.random(8)) for _ in range(4)))
        shared = forgotten(one, [level] * 8, "and")
        own = forgotten(one, [level] * 8, "and", by_recall=True)
        recalled = (np.array(one.memorisation) <= 0.6) & (np.array(one.extraction) <= 0.5)
        assert own == [bool(now and low) for now, low in zip(shared, recalled, strict=True)]


def test_an_extraction_that_was_not_read_keeps_no_sequence():
    one = reading((0.1, 0.1), (0.0, 0.0), el=float("nan"), ma=0.5)
    assert forgotten(one, [LIMITS] * 2, "and", by_recall=True) == [True, True]
    assert "extraction" not in left_by(one, [LIMITS] * 2)


def test_where_all_have_left_and_an_average_is_not_met_those_above_it_stay():
    own = [Limits(0.5, 0.5, 0.3, 0.8), Limits(0.5, 0.5, 0.05, 0.6)]
    one = EpochReading(1, (0.1, 0.1), (0.1, 0.1), (0.2, 0.02), (0.7, 0.4))

    def left(average, by_recall=True, reading=one):
        return leaving(reading, own, average, "and", (), by_recall)

    assert left(Limits(0, 0, 0.2, 0.6)) == [True, True]  # both averages are met
    assert left(Limits(0, 0, 0.1, 0.6)) == [False, True]
    assert left(Limits(0, 0, 0.2, 0.5)) == [False, True]
    assert left(Limits(0, 0, 0.1, 0.6), by_recall=False) == [True, True]


def test_each_sequence_leaves_at_its_own_level():
    one = reading((0.4, 0.4), (0.005, 0.005), el=0.04, ma=0.65)
    low, high = LIMITS, Limits(0.5, 0.01, 0.05, 0.7)
    assert forgotten(one, [low, high], "and", by_recall=True) == [False, True]
    assert left_by(one, [low, high]) == {
        "bertscore": 1,
        "bleu": 2,
        "extraction": 2,
        "memorisation": 1,
    }


def test_a_score_that_is_no_number_is_below_no_limit():
    nan = float("nan")
    assert forgotten(reading((nan,), (nan,)), [LIMITS], "or") == [False]


def test_an_epoch_whose_extraction_was_not_read_is_never_the_best():
    nan = float("nan")
    unread = reading(el=nan, ma=0.1, epoch=1)
    assert violation(unread, LIMITS) == float("inf")
    assert best_epoch([reading(epoch=0), unread], LIMITS).epoch == 0


def test_the_first_epoch_that_meets_both_limits_is_the_best():
    readings = [
        reading(el=0.9, ma=0.95, epoch=0),
        reading(el=0.04, ma=0.7, epoch=1),
        reading(el=0.04, ma=0.5, epoch=2),
        reading(el=0.0, ma=0.1, epoch=3),
    ]
    assert [violation(one, LIMITS) == 0 for one in readings] == [False, False, True, True]
    assert best_epoch(readings, LIMITS).epoch == 2
    assert best_epoch(readings[:2], LIMITS).epoch == 1  # none meets them: the nearest


def sequence(name, text, tokens=()):
    return TokenSequence(name, "test", tuple(tokens), text)


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_pairs_are_the_nearest_by_brute_force():
    draw = np.random.default_rng(1)
    forget = [sequence(f"f{n}", f"words of f{n}") for n in range(7)]
    pool = [sequence(f"p{n}", f"quite other talk p{n}") for n in range(40)]
    vectors = unit(draw.normal(size=(7, 16))), unit(draw.normal(size=(40, 16)))
    pairs = pair_up(forget, pool, vectors, Pairing(k=3))
    cosines = vectors[0] @ vectors[1].T
    for place, one in enumerate(forget):
        found = [pair for pair in pairs if pair.forget == one.id]
        nearest = np.argsort(-cosines[place])[:3]
        assert [pair.learn for pair in found] == [pool[at].id for at in nearest]
        assert [pair.cosine for pair in found] == pytest.approx(cosines[place][nearest], abs=1e-6)


def test_content_exclusion_takes_the_nearest_that_shares_no_run_of_words():
    said = "the number of the account is nine one one four and no other"
    forget = [sequence("f", f"my name is Ada and {said}")]
    copies = [sequence(f"c{n}", f"record {n} says {said}") for n in range(20)]
    pool = [*copies, sequence("other", "a table of tides for the coming year, hour by hour")]
    vectors = unit(np.ones((1, 4))), unit(np.array([[1, 1, 1, 1]] * 20 + [[-1, 1, 1, 1]], float))
    [pair] = pair_up(forget, pool, vectors, Pairing())
    assert pair.learn == "other"
    [near] = pair_up(forget, pool, vectors, Pairing(exclude_content=False))
    assert near.learn in {copy.id for copy in copies}
    with pytest.raises(InputError, match="0 of 20 pool sequences are left for the sequence f"):
        pair_up(forget, copies, (vectors[0], vectors[1][:20]), Pairing())


def test_what_shares_words_with_any_forget_sequence_may_not_be_retained():
    said = "the number of the account is nine one one four"
    forget = [sequence("f", "something else"), sequence("g", f"hear {said} or five")]
    pool = [
        sequence("copy", f"again {said} or five"),
        sequence("form", "once more the number of the account is two"),
        sequence("other", "a table of tides"),
    ]
    settings = Pairing(exclude_words=5)  # of what is held: ten
    assert [one.id for one in apart(pool, forget, settings)] == ["form", "other"]
    assert apart(pool, forget, Pairing(exclude_content=False)) == pool


def test_a_sequence_is_never_its_own_pair_and_a_small_pool_is_named():
    forget = [sequence("f", "one two")]
    vectors = unit(np.ones((1, 4))), unit(np.ones((1, 4)))
    settings = Pairing(exclude_content=False)
    with pytest.raises(InputError, match="0 of 1 pool sequences are left"):
        pair_up(forget, forget, vectors, settings)
    with pytest.raises(
        InputError, match=r"pairing\.k: found 1 texts to pair with, expected at least 2"
    ):
        pair_up(forget, forget, vectors, Pairing(k=2))


def test_runs_of_words_ignore_case_and_spacing():
    assert shares_words("A b  C d", "x a B c D y", 4)
    assert not shares_words("a b c d", "a b x c d", 3)
    assert shares_words("a b", "A  B", 8)  # short and equal


def test_the_approximate_index_finds_what_the_exact_one_does():
    pytest.importorskip("faiss")
    draw = np.random.default_rng(2)
    vectors = unit(draw.normal(size=(3000, 8)))
    exact, near = make_index(vectors, 10_000), make_index(vectors, 100)
    assert type(near).__name__ == "IndexIVFFlat"
    asked = vectors[:200]
    same = (exact.search(asked, 1)[1] == near.search(asked, 1)[1]).mean()
    assert same > 0.95


def test_ceilings_stand_beside_their_tokens_and_are_cut_with_them():
    batch = pad([Example((4, 5, 6), 1, (1.0, 2.0, 3.0)).cut(2), Example((4, 5, 6), 0)])
    assert batch["ceilings"].tolist() == [[1, 2, float("inf")], [float("inf")] * 3]
    assert "ceilings" not in pad([Example((4, 5, 6), 0)])


def test_retained_texts_are_half_of_the_pool_where_there_is_enough():
    pool = [sequence(f"p{n}", "", [n] * 6) for n in range(10)]
    general = [ReadLikelihood((50 + n,) * 6) for n in range(10)]

    def of_pool(most, pool=pool, general=general):
        kept = retained_texts(pool, general, most, 0)
        assert len({example.token_ids for example in kept}) == len(kept)
        assert all(example.prompt_tokens == 0 for example in kept)
        return sum(example.token_ids[0] < 50 for example in kept), len(kept)

    assert of_pool(8) == (4, 8)
    assert of_pool(8, general=general[:1]) == (7, 8)
    assert of_pool(8, pool=pool[:1]) == (1, 8)
    assert of_pool(100) == (10, 20)
    assert of_pool(0) == (0, 0)


def test_bleu_is_four_common_words_in_a_row_or_nothing():
    assert sentence_bleu("one two three", "one two three") < 0.01
    assert sentence_bleu("one two three four", "One two three four") == pytest.approx(1)
    assert sentence_bleu("one two three x four five six", "one two three four five six") == 0
    assert sentence_bleu("  ", "one two") == 0


def test_a_sweep_is_every_combination_of_its_values():
    over = {"learning_rate": [1e-5, 1e-6], "objective.kl_weight": [0, 1]}
    config = Config(name="x", task=TASK, sweep={"over": over})
    places = config.sweep.places()
    assert len(places) == 4
    assert places[1] == {"learning_rate": 1e-5, "objective.kl_weight": 1}
    training = config.methods.of("icu").trained_with(places[0])
    assert (training.learning_rate, training.objective.kl_weight) == (1e-5, 0)
    assert training.objective.learn_weight == 0.5  # what a place says nothing of stays
