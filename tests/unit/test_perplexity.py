"""Windows score every token that they can once; perplexity is that of a loop over them."""

import math
import random
from collections import Counter

import numpy as np
import pytest

from rnr_dist.config.evaluation import Perplexity
from rnr_dist.generate.requests import Response
from rnr_dist.measures.perplexity import perplexity, windows
from rnr_dist.types import Passage, Split


class Positions:
    """A tokenizer whose tokens say where they stand: one a character."""

    def encode(self, text, add_special_tokens=True):
        return list(range(len(text)))


class Begun(Positions):
    """Puts a begin token, -1, before a text and an end token, -2, behind it."""

    def encode(self, text, add_special_tokens=True):
        bare = super().encode(text)
        return [-1, *bare, -2] if add_special_tokens else bare


def passage(text):
    return Passage(text[:4], text, Split.FINAL, "prose")


def cut(length, window, stride, most=10_000):
    settings = Perplexity(window=window, stride=stride, max_windows=most)
    return windows([passage("x" * length)], Positions(), settings)


def scored(requests):
    return Counter(token for r in requests for token in r.token_ids[r.start :])


@pytest.mark.parametrize("length", [2, 9, 10, 11, 29, 30, 31, 100])
@pytest.mark.parametrize(("window", "stride"), [(10, 1), (10, 4), (10, 9), (8, 5), (50, 20)])
def test_overlapping_windows_score_every_token_but_the_first_once(length, window, stride):
    requests = cut(length, window, stride)
    assert scored(requests) == Counter(range(1, length))
    for request in requests:
        first = request.token_ids[0]
        assert request.token_ids == tuple(range(first, first + len(request.token_ids)))
        assert len(request.token_ids) <= window
        # All but the text's first window give each scored token window - stride of context.
        assert first == 0 or request.start == window - stride


@pytest.mark.parametrize("length", [9, 10, 11, 12, 30, 31, 32, 100])
def test_windows_without_overlap_score_all_but_their_own_first_token_once(length):
    requests = cut(length, 10, 10)
    assert scored(requests) == Counter(set(range(length)) - set(range(0, length, 10)))


@pytest.mark.parametrize("length", [2, 9, 10, 11, 29, 30, 31, 100])
@pytest.mark.parametrize(("window", "stride"), [(10, 1), (10, 9), (10, 10), (8, 5), (50, 20)])
def test_windows_begin_as_prompts_do_and_then_score_every_token_once(length, window, stride):
    settings = Perplexity(window=window, stride=stride, max_windows=10_000)
    requests = windows([passage("x" * length)], Begun(), settings)
    for request in requests:
        assert request.token_ids[0] == -1 and -2 not in request.token_ids
        assert len(request.token_ids) <= window
    # A last token that alone would make a window is left out, as without a begin token.
    missing = Counter(range(length)) - scored(requests)
    assert scored(requests) == Counter(range(length)) - missing
    assert set(missing) <= {length - 1}


def test_few_windows_are_spread_evenly_and_keep_both_ends():
    everything = cut(1000, 10, 10)
    assert len(everything) == 100
    few = cut(1000, 10, 10, most=7)
    begins = [request.token_ids[0] for request in few]
    assert (len(few), begins[0], begins[-1]) == (7, 0, 990)
    steps = np.diff(begins)
    assert steps.max() - steps.min() <= 10
    assert cut(1000, 10, 10, most=100) == everything
    assert len(cut(1000, 10, 10, most=99)) == 99
    assert cut(1000, 10, 10, most=1) == everything[:1]


def test_passages_are_one_text_with_blank_lines_between():
    class Characters:
        def encode(self, text, add_special_tokens=True):
            return [ord(letter) for letter in text]

    [only] = windows([passage("ab"), passage("cd")], Characters(), Perplexity(window=8, stride=8))
    assert "".join(map(chr, only.token_ids)) == "ab\n\ncd"
    assert only.start == 1


@pytest.mark.parametrize(("window", "stride"), [(12, 12), (12, 5)])
def test_perplexity_is_that_of_a_loop_over_the_scored_tokens(window, stride):
    draw = random.Random(1)
    requests = cut(200, window, stride)
    responses, losses = [], []
    for request in requests:
        read = [math.log(draw.uniform(0.01, 1)) for _ in request.token_ids[request.start :]]
        losses += [-value for value in read]
        responses.append(Response("m", log_likelihoods=tuple(read)))
    measure = perplexity(responses)
    assert measure.value == pytest.approx(math.exp(sum(losses) / len(losses)))
    assert measure.n_contexts == len(requests)
    assert measure.denominator.sum() == len(losses)
