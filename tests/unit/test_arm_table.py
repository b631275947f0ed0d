"""Which arms enter the table, and what happens where a small model decodes them alike."""

import numpy as np
import pytest

from rnr_dist.config.reveal import Reveal
from rnr_dist.generate.requests import Continuation, Response
from rnr_dist.reveal.arms import ArmTable
from rnr_dist.reveal.instructions import meta_prompt
from rnr_dist.reveal.table import InstructionDecoder, decoded_arms, fitting
from rnr_dist.types import ModelRef

ARMS, HIDDEN = 8, 4
TABLE = ArmTable(ARMS, 3, soft_tokens=2, hidden=HIDDEN, seed=0, scale_std=0.1)
META = np.ones((3, HIDDEN), np.float32)


class Writer:
    """Decodes greedily to one of `greedy` texts by arm; sampled, to a text of the arm's own."""

    def __init__(self, *greedy):
        self.greedy, self.asked = greedy, []

    def run(self, model, requests, describe=""):
        answers = []
        for request in requests:
            soft = request.embeddings[len(META) : len(META) + 2]
            [arm] = [n for n in range(ARMS) if np.array_equal(TABLE.soft_prompt(n), soft)]
            warm = request.sampling.temperature
            self.asked.append((arm, warm))
            text = f" say {arm}." if warm else self.greedy[arm % len(self.greedy)]
            answers.append(Response(model.digest, (Continuation((), text, "stop"),)))
        return answers


def decoded(writer, **reveal):
    settings = Reveal(arms=ARMS, outer_iterations=2, **{"budget": 2, **reveal})
    decoder = InstructionDecoder(writer, ModelRef("/m", "m"), TABLE, META, META[:1], 16)
    return decoded_arms(settings, decoder)


@pytest.mark.parametrize("place", ["first", "last"])
def test_demonstrations_leave_an_instruction_room_in_the_window(place):
    class Words:
        def encode(self, text, add_special_tokens=True):
            return text.split()

    reveal = Reveal(soft_place=place, soft_tokens=5, instruction_tokens=10)
    pairs = [("a b c", "d"), ("e f", "g h"), ("i " * 50, "j")]
    ends = len(meta_prompt([], Words(), place).after) + 15
    both = ends + 2 * 6  # `Input:` and `Output:` with four words each
    kept = [len(fitting(pairs, Words(), reveal, window)) for window in (both + 53, both + 52)]
    assert kept == [3, 2]
    kept = [list(fitting(pairs, Words(), reveal, window)) for window in (both, both - 1, ends)]
    assert kept == [pairs[:2], pairs[:1], []]


def test_an_instruction_stands_once():
    writer = Writer(" Be rude.", " be rude", " shout", "", " laugh", " sing")
    instructions, kept = decoded(writer)
    assert kept == [0, 2, 4, 5]
    assert instructions[0] == "Be rude." and len(instructions) == ARMS
    assert writer.asked == [(arm, 0) for arm in range(ARMS)]


def test_arms_that_repeat_others_are_sampled_where_too_few_are_left():
    writer = Writer(" shout", "")
    instructions, kept = decoded(writer)
    assert instructions[0] == "shout"  # what was different stays as it was
    assert instructions[1:] == [f"say {arm}." for arm in range(1, ARMS)]
    assert kept == list(range(ARMS))
    again = writer.asked[ARMS:]
    assert [arm for arm, _ in again] == list(range(1, ARMS))
    assert all(warm > 0 for _, warm in again)


@pytest.mark.parametrize("mode", ["paper", "instinct"])
def test_the_papers_modes_keep_all_arms_that_said_something(mode):
    writer = Writer(" shout", "", " shout")
    _, kept = decoded(writer, mode=mode)
    assert kept == [0, 2, 3, 5, 6]
    assert len(writer.asked) == ARMS


def test_sampled_instructions_are_decoded_once():
    writer = Writer()
    _, kept = decoded(writer, instruction_temperature=0.7, budget=4)
    assert kept == list(range(ARMS))
    assert writer.asked == [(arm, 0.7) for arm in range(ARMS)]
