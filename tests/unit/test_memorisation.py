"""EL and MA by the shortcut against generating from every prefix, and their edges by hand."""

import random
from functools import cache

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from rnr_dist.icu.torch_reader import TorchReader
from rnr_dist.measures.memorisation import (
    Counting,
    mismatches_needed,
    overlap,
    recall,
    token_nats,
)
from rnr_dist.measures.results import Auc
from rnr_dist.types import TokenSequence
from tests.unit.brute_force import naive_overlaps
from tests.unit.tiny_models import gemma_2, gpt_neo, mistral

pytestmark = pytest.mark.usefixtures("one_thread")
EOS = 5


class Scripted:
    """A reader of a model that says `answer` after a sequence's first `known` tokens.

    It recalls the sequence from `known` tokens on, and says other tokens before that.
    """

    def __init__(self, known, other=99):
        self.known, self.other = known, other
        self.asked = []

    def matches(self, sequences):
        return [np.arange(1, len(ids)) >= self.known for ids in sequences]

    def greedy(self, starts):
        self.asked += starts
        return [
            ids[length : length + new] if length >= self.known else (self.other,) * new
            for ids, length, new in starts
        ]


def given(t0, *sequences):
    return [TokenSequence(str(n), "test", ids, "", t0) for n, ids in enumerate(sequences)]


@pytest.fixture(scope="module")
def memoriser(tmp_path_factory, tiny_llama):
    """A tiny model that has learnt most of some sequences, and the sequences."""
    folder = tiny_llama(tmp_path_factory.mktemp("memoriser"), vocabulary=61)
    model = AutoModelForCausalLM.from_pretrained(folder)
    draw = random.Random(3)
    sequences = [tuple(draw.randrange(6, 61) for _ in range(length)) for length in (26, 23, 26, 20)]
    # Repeated grams, and an end token within a sequence.
    sequences.append((*sequences[0][:6], *sequences[0][:6], 7, 8, 9, 7, 8, 9, 7, 8, 9, 11))
    sequences.append((*sequences[1][:14], EOS, *sequences[2][:8]))
    torch.manual_seed(0)
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(130):
        for ids in sequences[:2] + sequences[4:]:
            rows = torch.tensor([ids])
            model(input_ids=rows, labels=rows).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    return model.eval(), sequences


@cache
def generated(model, ids, length):
    """transformers' own greedy output after a prefix."""
    rows = torch.tensor([ids[:length]])
    told = model.generate(
        rows,
        attention_mask=torch.ones_like(rows),
        max_new_tokens=len(ids) - length,
        do_sample=False,
        eos_token_id=EOS,
        pad_token_id=0,
    )
    return tuple(told[0, length:].tolist())


@pytest.mark.parametrize("denominator", ["generated", "label"])
@pytest.mark.parametrize("n", [1, 4])
def test_the_shortcut_is_the_loop(memoriser, n, denominator):
    model, sequences = memoriser
    counting = Counting(n, denominator, EOS)
    found = recall(TorchReader(model, EOS), given(10, *sequences), counting)
    values = []
    for ids, read in zip(sequences, found, strict=True):
        wanted = [
            overlap(generated(model, ids, length), ids[length:], n, denominator)
            for length in range(1, len(ids) - n + 1)
        ]
        np.testing.assert_allclose(read.overlaps, wanted, atol=1e-12)
        assert read.continuation == generated(model, ids, 10)
        assert read.extraction == pytest.approx(np.mean(wanted))
        values += wanted
    assert 0 < np.mean(values) < 1  # both known and unknown parts were seen


def test_the_loop_over_prefixes_is_transformers_own(memoriser):
    model, sequences = memoriser
    found = naive_overlaps(TorchReader(model, EOS), sequences[4], Counting(2, eos=EOS))
    wanted = [
        overlap(generated(model, sequences[4], length), sequences[4][length:], 2)
        for length in range(1, len(sequences[4]) - 1)
    ]
    np.testing.assert_allclose(found, wanted)


def test_one_pass_gives_what_one_token_generations_give(memoriser):
    model, sequences = memoriser
    for ids, found in zip(sequences, TorchReader(model, EOS).matches(sequences), strict=True):
        with torch.no_grad():
            guesses = [
                int(model(torch.tensor([ids[:length]])).logits[0, -1].argmax())
                for length in range(1, len(ids))
            ]
        assert found.tolist() == [g == t for g, t in zip(guesses, ids[1:], strict=True)]


def test_a_perfect_memoriser_is_one_and_needs_no_decode():
    ids = tuple(range(100, 130))
    reader = Scripted(known=1)
    [read] = recall(reader, given(10, ids), Counting(5))
    assert read.extraction == 1 and read.accuracy() == 1
    assert read.continuation == ids[10:]
    assert reader.asked == []


def test_what_shares_no_gram_is_zero():
    ids = tuple(range(100, 130))
    [read] = recall(Scripted(known=99), given(10, ids), Counting(5))
    assert read.extraction == 0 and read.accuracy() == 0
    assert read.continuation == (99,) * 20


def test_the_window_and_the_accuracy_begin_where_they_are_asked_to():
    ids = tuple(range(100, 130))
    [read] = recall(Scripted(known=12), given(10, ids), Counting(5), "given")
    assert read.prefixes == tuple(range(10, 26))
    # After 10 and 11 tokens it goes astray, from 12 on it is right.
    assert read.extraction == pytest.approx(14 / 16)
    assert read.extraction_within(12, 99) == 1
    assert read.accuracy(12) == 1
    assert read.accuracy() == pytest.approx(18 / 29)
    assert np.isnan(read.extraction_within(1, 9))


def test_each_sequence_is_read_from_its_own_prefix_on():
    ids = tuple(range(100, 130))
    sequences = [*given(3, ids), *given(20, ids)]
    short, long = recall(Scripted(known=12), sequences, Counting(5), "given")
    assert short.prefixes == tuple(range(3, 26)) and long.prefixes == tuple(range(20, 26))
    assert short.extraction == pytest.approx(14 / 23) and long.extraction == 1
    assert short.continuation == (99,) * 27 and long.continuation == ids[20:]


def test_prefixes_before_a_mismatch_share_its_decode():
    match = np.array([1, 1, 0, 1, 1, 0, 0, 1], bool)  # tokens 3, 6 and 7 are not recalled
    assert mismatches_needed(match, range(1, 9)) == [3, 6, 7]
    assert mismatches_needed(match, [4, 5]) == [6]
    assert mismatches_needed(match, [8]) == []


@pytest.mark.parametrize(
    ("generated_ids", "denominator", "wanted"),
    [
        ((1, 2, 3, 4), "generated", 1),
        ((1, 2, 9, 9), "generated", 1 / 3),
        ((1, 2, 1, 2), "generated", 2 / 3),  # a multiset: the gram counts each time
        ((1, 2), "generated", 1),
        ((1, 2), "label", 1 / 3),  # what was not said counts here
        ((1,), "generated", 0),
        ((), "label", 0),
    ],
)
def test_overlap(generated_ids, denominator, wanted):
    assert overlap(generated_ids, (1, 2, 3, 4), 2, denominator) == pytest.approx(wanted)


def test_auc_is_the_rank_statistic():
    from sklearn.metrics import roc_auc_score

    draw = np.random.default_rng(0)
    known, unknown = draw.integers(0, 9, 40).astype(float), draw.integers(2, 11, 30).astype(float)
    labels = [0] * 40 + [1] * 30
    assert Auc(tuple(known), tuple(unknown)).value == pytest.approx(
        roc_auc_score(labels, np.concatenate([known, unknown]))
    )
    assert Auc((0.0,) * 3, (0.0,) * 4).value == 0.5


def test_the_auc_of_equals_is_a_half_within_its_interval():
    draw = np.random.default_rng(0)
    low, high, same = (tuple(draw.normal(mean, 1, 40)) for mean in (1, 9, 1))
    assert (Auc(low, high).value, Auc(low, high).interval()) == (1, (1, 1))
    lower, upper = Auc(low, same).interval()
    assert lower < 0.5 < upper and lower < Auc(low, same).value < upper


def test_a_tokens_nats_are_the_mean_over_all_its_places_but_a_first():
    found = token_nats([(7, 3, 3, 5), (3, 7, 5)], [(-1.0, -2.0, -4.0), (-6.0, -1.0)])
    assert found == {3: 1.5, 5: 2.5, 7: 6.0}


def test_a_continuation_is_read_without_any_prefix(memoriser):
    model, sequences = memoriser
    reader = TorchReader(model, None)
    whole = recall(reader, given(4, *sequences), Counting(3))
    alone = recall(reader, given(4, *sequences), Counting(3), "none")
    assert [one.continuation for one in alone] == [one.continuation for one in whole]
    assert all(one.prefixes == () and len(one.overlaps) == 0 for one in alone)


def test_a_window_of_attention_counts_what_was_given():
    """GPT-Neo's local layers see so many places back, where a cache holds a longer sequence."""
    model = gpt_neo(window=6).eval()
    draw = random.Random(1)
    sequences = [tuple(draw.randrange(6, 53) for _ in range(length)) for length in (26, 9, 17)]
    starts = [(ids, length, 5) for ids in sequences for length in range(1, len(ids), 3)]
    said = TorchReader(model, EOS).greedy(starts)
    # `generated` says as many tokens as the ids that it is given have after the prefix.
    wanted = [generated(model, ids[:length] + (0,) * 5, length) for ids, length, _ in starts]
    assert said == wanted


# A window shorter than 2T - t0 but longer than a sequence's first half.
WINDOW, LENGTH, GIVEN = 32, 40, 20
SLIDING = {
    "GPT-Neo": lambda window: gpt_neo(layers=4, window=window),
    "Mistral": mistral,
    "Gemma 2": gemma_2,
}


@pytest.mark.parametrize("name", SLIDING)
def test_what_leaves_the_epochs_is_read_as_a_plain_pass_at_each_place_reads_it(name):
    """Brute force: every token of every continuation from a whole pass without a cache."""
    model = SLIDING[name](WINDOW).eval()

    @cache
    def next_token(ids):
        with torch.no_grad():
            return int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())

    def continued(ids, new):
        for _ in range(new):
            ids = (*ids, next_token(ids))
        return ids[-new:]

    draw, sequences = random.Random(4), []
    for _ in range(4):  # what the model itself says, but for some tokens
        ids = (draw.randrange(6, 53),)
        while len(ids) < LENGTH:
            ids = (*ids, next_token(ids) if draw.random() < 0.8 else draw.randrange(6, 53))
        sequences.append(ids)
    counting = Counting(3)
    for ids, read in zip(
        sequences, recall(TorchReader(model, None), given(GIVEN, *sequences), counting), strict=True
    ):
        right = [next_token(ids[:at]) == ids[at] for at in range(1, LENGTH)]
        assert read.matches.tolist() == right
        assert read.continuation == continued(ids[:GIVEN], LENGTH - GIVEN)
        told = [continued(ids[:at], LENGTH - at) for at in range(1, LENGTH - counting.n + 1)]
        brute = [overlap(said, ids[-len(said) :], counting.n) for said in told]
        np.testing.assert_array_equal(read.overlaps, brute)
        assert 0 < read.extraction < 1
    # The windows are seen: without them the model says something else.
    wide = SLIDING[name](10 * WINDOW).eval()
    wide.load_state_dict(model.state_dict(), strict=False)
    other = TorchReader(wide, None).greedy([(ids, GIVEN, LENGTH - GIVEN) for ids in sequences])
    assert other != [continued(ids[:GIVEN], LENGTH - GIVEN) for ids in sequences]
