"""Problem sets: what is refused, and how choices and replies are scored."""

import json

import pytest

from rnr_dist.data.problems import Dialogue, Question, load_problems
from rnr_dist.errors import InputError
from rnr_dist.generate.requests import Continuation, Response
from rnr_dist.measures.problems import (
    choice_accuracy,
    choice_requests,
    reply_f1,
    reply_requests,
)

QUESTIONS = [
    Question("Water is", ("wet.", "dry and hot."), 0),
    Question("Fire is", ("wet.", "hot."), 1),
    Question("Ice is", ("hot.", "cold.", "loud."), 1),
]


class Letters:
    """A token a character; special tokens, where they are asked for, are a 0 in front."""

    def encode(self, text, add_special_tokens=True):
        return [0] * add_special_tokens + [ord(letter) for letter in text]


def read(values):
    return [Response("m", log_likelihoods=tuple(row)) for row in values]


def test_a_choice_is_read_after_its_question_and_only_its_own_tokens_count():
    requests = choice_requests(QUESTIONS[:1], Letters())
    assert [request.start for request in requests] == [9, 9]
    assert bytes(requests[1].token_ids[1:]) == b"Water is dry and hot."
    assert requests[1].token_ids[:9] == requests[0].token_ids[:9]
    assert 0 not in requests[1].token_ids[1:]


def test_the_likeliest_choice_in_sum_is_the_answer():
    # The second question's wrong choice has the better mean, the right one the better sum.
    scores = [[-1.0], [-2.0, -2.0], [-0.5] * 4, [-1.0], [-3.0], [-4.0], [-5.0]]
    measure = choice_accuracy(QUESTIONS, read(scores))
    assert measure.numerator.tolist() == [1, 1, 0]
    assert measure.value == pytest.approx(2 / 3)


def test_a_reply_is_asked_for_by_the_one_whose_turn_it_is():
    dialogue = Dialogue(("Hello.", "Hello, who is it?", "Guess."), "I cannot.")
    [request] = reply_requests([dialogue], Letters())
    assert bytes(request.token_ids[1:]) == b"A: Hello.\nB: Hello, who is it?\nA: Guess.\nB:"
    assert (request.sampling.temperature, request.sampling.max_tokens) == (0.0, 32)


@pytest.mark.parametrize(
    ("said", "f1"),
    [
        (" The cat sat, down.", 1.0),  # articles, case and punctuation aside
        ("cat\nA: sat down here", 0.5),  # one of one against one of three: its first line alone
        ("cat cat cat", 1 / 3),  # as often as it stands there
        ("nothing", 0.0),
        ("", 0.0),
    ],
)
def test_f1_of_words_by_hand(said, f1):
    answer = Response("m", (Continuation((1,), said, "length"),))
    assert reply_f1([Dialogue(("x",), "a cat sat down")], [answer]).value == pytest.approx(f1)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"choices": ["a", "b"], "answer": 0}, "`question`: Field required"),
        ({"question": "q", "choices": ["a"], "answer": 0}, "`choices`: Tuple should have at least"),
        ({"question": "q", "choices": ["a", " "], "answer": 0}, r"`choices.1`: String should"),
        (
            {"question": "q", "choices": ["a", "b"], "answer": 2},
            "row 2: answer 2 is none of the 2",
        ),
        ({"question": "q", "choices": ["a", "b"], "answer": "x"}, "`answer`: Input should be a"),
        (["q"], "Input should be a dictionary"),
    ],
)
def test_a_bad_row_is_named(tmp_path, row, message):
    path = tmp_path / "choices.jsonl"
    good = {"question": "q", "choices": ["a", "b"], "answer": 1}
    path.write_text(f"{json.dumps(good)}\n{json.dumps(row)}\n")
    with pytest.raises(InputError, match=rf"choices.jsonl, .*{message}"):
        load_problems(str(path), Question)


def test_an_empty_file_and_an_unknown_name_are_refused(tmp_path):
    (tmp_path / "none.jsonl").write_text("\n")
    with pytest.raises(InputError, match=r"none\.jsonl: holds no rows"):
        load_problems(str(tmp_path / "none.jsonl"), Dialogue)
    with pytest.raises(InputError, match="no built-in text is called 'riddles'"):
        load_problems("builtin:riddles", Question)


def test_the_built_in_problems_have_one_right_answer_in_every_place():
    questions = load_problems("builtin:choices", Question)
    assert len({question.question for question in questions}) == len(questions) == 80
    for kind in {question.kind for question in questions}:
        own = [question for question in questions if question.kind == kind]
        places = [question.answer for question in own]
        assert all(places.count(place) == len(own) / len(own[0].choices) for place in set(places))
        assert all(len({*question.choices}) == len(question.choices) for question in own)
    assert len(load_problems("builtin:dialogues", Dialogue)) == 40
