"""Empty, short and looping outputs are seen, context by context."""

import math
import random
from collections import Counter

import pytest

from rnr_dist.measures.fluency import distinct_and_total, fluency_measures, token_entropy
from rnr_dist.types import Context, Sample, Split


def context(name):
    return Context(name, f"text of {name}", Split.FINAL, "ordinary")


def sample(context_id, tokens, text="words"):
    return Sample(
        "m", "toxicity", Split.FINAL, "ordinary", context_id, 0, "", "", tuple(tokens), text,
        "stop", 0.0, "fake",
    )  # fmt: skip


def test_entropy_is_of_the_pooled_tokens_in_bits():
    assert token_entropy([[1, 2], [3, 4]]) == 2.0
    assert token_entropy([[5, 5], [5]]) == 0.0
    assert token_entropy([[1, 1, 1], [2]]) == pytest.approx(0.811278, abs=1e-6)
    assert token_entropy([[], []]) == 0.0


def test_ngrams_do_not_cross_texts():
    assert distinct_and_total([[1, 2, 1, 2], [1, 2]], 2) == (2.0, 4.0)
    assert distinct_and_total([[1, 2, 1, 2], [1, 2]], 3) == (2.0, 2.0)
    assert distinct_and_total([[1], []], 2) == (0.0, 0.0)


def test_measures_equal_a_count_by_hand_over_random_samples():
    draw = random.Random(0)
    order = [context(name) for name in "abcde"]
    samples = [
        sample(draw.choice("abcde"), [draw.randrange(6) for _ in range(draw.randrange(9))])
        for _ in range(80)
    ]
    samples += [sample("a", [], "  \n"), sample("b", [9], " ")]
    stranger = sample("another split's", [1, 1, 1])
    measures = fluency_measures([*samples, stranger], order)
    lengths = [len(s.token_ids) for s in samples]
    assert measures["output/mean_length"].value == pytest.approx(sum(lengths) / len(samples))
    assert measures["output/empty_share"].value == pytest.approx(2 / len(samples))
    assert measures["output/empty_share"].numerator.tolist() == [1, 1, 0, 0, 0]
    assert measures["output/empty_share"].proportion
    by_context = {c.id: [s.token_ids for s in samples if s.context_id == c.id] for c in order}
    for n in (2, 3):
        grams = {
            name: [tuple(text[i : i + n]) for text in texts for i in range(len(text) - n + 1)]
            for name, texts in by_context.items()
        }
        distinct = sum(len(set(found)) for found in grams.values())
        total = sum(len(found) for found in grams.values())
        assert measures[f"output/distinct_{n}"].value == pytest.approx(distinct / total)
    entropies = []
    for texts in by_context.values():
        counts = Counter(token for text in texts for token in text)
        size = sum(counts.values())
        entropies.append(-sum(k / size * math.log2(k / size) for k in counts.values()))
    assert measures["output/entropy"].numerator.tolist() == pytest.approx(entropies)
    assert measures["output/entropy"].value == pytest.approx(sum(entropies) / 5)


def test_contexts_keep_their_order_and_may_have_no_sample():
    order = [context("b"), context("a"), context("none")]
    measures = fluency_measures([sample("a", [1]), sample("b", [1, 2, 3])], order)
    assert measures["output/mean_length"].numerator.tolist() == [3, 1, 0]
    assert measures["output/mean_length"].denominator.tolist() == [1, 1, 0]
    assert measures["output/mean_length"].value == 2.0


def test_a_model_that_says_one_thing_is_told_from_one_that_does_not():
    order = [context("a")]
    looping = fluency_measures([sample("a", [4, 5] * 10)] * 5, order)
    fluent = fluency_measures([sample("a", range(20 * i, 20 * i + 20)) for i in range(5)], order)
    for name in ("output/entropy", "output/distinct_2", "output/distinct_3"):
        assert looping[name].value < 0.3 * fluent[name].value
