"""The plan of a training and its tensors."""

import pickle

import numpy as np
import pytest
import torch

from rnr_dist.train.collate import (
    IGNORED,
    Batching,
    Example,
    Item,
    collate,
    pad,
    padded_tokens,
    plan_steps,
    texts,
)

LENGTHS = np.random.default_rng(5).integers(4, 60, size=203).tolist()
PLAN = {"batch_size": 16, "micro_batch_tokens": 180, "world_size": 2, "seed": 7}


def plan(epochs=3, padded=None, lengths=None, **more):
    return plan_steps(lengths or LENGTHS, Batching(**PLAN | more), epochs, padded)


def test_each_epoch_holds_every_example_once():
    steps = plan()
    assert len(steps) == 3 * 13
    for epoch in range(3):
        seen = [index for step in steps[epoch * 13 : epoch * 13 + 13] for index in step.indices]
        assert sorted(seen) == list(range(203))
    first, second = ([step.indices for step in steps[start : start + 13]] for start in (0, 13))
    assert first != second


def test_the_plan_follows_from_its_arguments():
    assert plan() == plan()
    assert plan() != plan(seed=8)


def test_a_step_does_not_depend_on_how_it_is_shared_out():
    one = plan(world_size=1, micro_batch_tokens=9999)
    for step, alone in zip(plan(), one, strict=True):
        assert sorted(step.indices) == sorted(alone.indices)


@pytest.mark.parametrize("world_size", [1, 2, 5])
def test_ranks_take_equally_many_micro_batches_of_almost_equal_size(world_size):
    for step in plan(world_size=world_size):
        assert len(step.micro_batches) == world_size
        assert len({len(rank) for rank in step.micro_batches}) == 1
        parts = [micro for rank in step.micro_batches for micro in rank]
        sizes = [len(part) for part in parts]
        assert all(len(part) * max(LENGTHS[i] for i in part) <= 180 for part in parts if part)
        assert max(sizes) - min(sizes) <= 1
        assert sum(sizes) in (15, 16)


def test_short_sequences_share_a_forward_pass_and_long_ones_do_not():
    def passes(length):
        [step] = plan_steps([length] * 8, Batching(8, 512, 1, 0), 1)
        return len(step.micro_batches[0])

    assert [passes(length) for length in (40, 64, 65, 192, 900)] == [1, 1, 2, 4, 8]


def test_a_rank_without_an_example_still_has_a_place_in_the_step():
    [step] = plan_steps([9], Batching(4, 4, 3, 0), 1)
    assert step.micro_batches == (((0,),), ((),), ((),))


def test_batches_of_similar_length_need_little_padding():
    def padded(batches):
        return sum(len(batch) * max(LENGTHS[index] for index in batch) for batch in batches)

    micro_batches = [
        micro for step in plan(epochs=1) for rank in step.micro_batches for micro in rank
    ]
    shuffled = np.array_split(np.random.default_rng(0).permutation(203), len(micro_batches))
    assert padded(micro_batches) < 1.1 * sum(LENGTHS)
    assert padded(shuffled) > 1.3 * sum(LENGTHS)


def test_labels_follow_from_lengths_and_not_from_token_ids():
    # 0 is the padding's id here and also ends the first response; 7 is in prompt and response.
    batch = pad([Example((7, 8, 7, 0), 2), Example((0, 5), 0)])
    assert batch["input_ids"].tolist() == [[7, 8, 7, 0], [0, 5, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    skip = IGNORED
    assert batch["labels"].tolist() == [[skip, skip, 7, 0], [skip, 5, skip, skip]]


@pytest.mark.parametrize(
    ("example", "labels"),
    [
        (Example((1, 2, 3, 4), 1), 3),
        (Example((1, 2, 3, 4), 0), 3),  # nothing predicts the first token
        (Example((1, 2, 3, 4), 4), 0),
        (Example((1, 2, 3, 4), 3).cut(3), 0),
        (Example((1, 2, 3, 4), 1).cut(2), 1),
    ],
)
def test_an_example_counts_the_labels_that_padding_gives_it(example, labels):
    assert example.labels == labels
    assert int((pad([example])["labels"] != IGNORED).sum()) == labels


def test_no_examples_become_one_token_without_a_label():
    batch = pad([])
    assert batch["input_ids"].shape == torch.Size([1, 1])
    assert batch["labels"].tolist() == [[IGNORED]]


def sequence(length, prompt=1):
    return Example(tuple(range(length)), prompt)


PAIRS = [
    Item.of(chosen=[sequence(c)], rejected=[sequence(r)])
    for c, r in np.random.default_rng(8).integers(2, 40, size=(60, 2))
]


def test_items_are_values():
    pair = Item.of(chosen=[sequence(3)], rejected=[sequence(5), sequence(2)])
    assert (pair["chosen"], pair["rejected"]) == ((sequence(3),), (sequence(5), sequence(2)))
    assert (pair["other"], pair.parts) == ((), {"chosen", "rejected"})
    assert pair.length == 10
    assert pair.cut(2) == Item.of(chosen=[sequence(2)], rejected=[sequence(2), sequence(2)])
    assert pickle.loads(pickle.dumps(pair)) == pair and hash(pair) == hash(pair.cut(9))


def test_padding_counts_every_part():
    crossed = [
        Item.of(chosen=[sequence(10)], rejected=[sequence(2)]),
        Item.of(chosen=[sequence(2)], rejected=[sequence(10)]),
    ]
    assert padded_tokens(crossed) == 40 > 2 * crossed[0].length
    assert padded_tokens(texts([sequence(4), sequence(7)])) == 14
    assert padded_tokens([]) == 0

    def padded(part):
        return padded_tokens(PAIRS[index] for index in part)

    lengths = [pair.length for pair in PAIRS]
    micro_batches = [
        micro
        for step in plan(padded=padded, lengths=lengths)
        for rank in step.micro_batches
        for micro in rank
    ]
    assert all(padded(micro) <= 180 for micro in micro_batches if len(micro) > 1)
    assert max(len(micro) for micro in micro_batches) > 2


def test_a_row_knows_its_item_and_a_part_without_rows_is_still_there():
    items = [
        Item.of(positive=[sequence(3)]),
        Item.of(positive=[sequence(2)], negative=[sequence(4), sequence(5)]),
        Item.of(positive=[sequence(2)], negative=[sequence(3)]),
    ]
    batch = collate(items, ("positive", "negative", "none"))
    assert list(batch) == ["positive", "negative", "none"]
    assert batch["positive"]["owner"].tolist() == [0, 1, 2]
    assert batch["negative"]["owner"].tolist() == [1, 1, 2]
    alone = pad([*items[1]["negative"], *items[2]["negative"]])
    assert all(torch.equal(batch["negative"][key], alone[key]) for key in alone)
    assert batch["none"]["owner"].tolist() == [-1]
    assert batch["none"]["attention_mask"].tolist() == [[0]]
