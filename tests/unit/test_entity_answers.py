"""Answers that name entities: what is a list of them, how names are compared, what is right."""

import json
import random

import numpy as np
import pytest
from sklearn.metrics import f1_score

from rnr_dist.config.entities import EntityOracle
from rnr_dist.data.entity_answers import bare, parsed
from rnr_dist.data.entity_questions import plain
from rnr_dist.measures.entities import Answer, EntityMeasures
from rnr_dist.measures.measure import Role
from rnr_dist.score.oracles import make_oracle

LISTS = [
    ('["Ann Lee", "Bo"]', ("Ann Lee", "Bo")),
    ("['Ann Lee', \"O'Neil\"]", ("Ann Lee", "O'Neil")),
    (' ["Ann  Lee"]\n', ("Ann Lee",)),
    ('["Bo", "Bo"]', ("Bo",)),
    ("[]", ()),
    ("[ ]", ()),
    ('["Zoë", "\\u00e9"]', ("Zoë", "é")),
]
NO_LISTS = [
    "",
    "Ann Lee",
    '"Ann Lee"',
    '["Ann Lee"',
    "[Ann Lee]",
    '["Ann Lee", 7]',
    '[["Ann Lee", "person"]]',
    '("Ann Lee",)',
    '{"person": ["Ann Lee"]}',
    'Here it is: ["Ann Lee"]',
    '["Ann Lee"] I hope this helps',
    "[].__class__",
    "[" * 100_000 + "]" * 100_000,
    "[" * 3000 + "]" * 3000,
    '["a' + "\\",
    "[f('x')]",
]


@pytest.mark.parametrize(("answer", "names"), LISTS)
def test_a_list_of_strings_is_read(answer, names):
    assert parsed(answer) == names


@pytest.mark.parametrize("answer", NO_LISTS, ids=lambda text: text[:20])
def test_what_is_no_list_of_strings_is_never_an_empty_one(answer):
    assert parsed(answer) is None


def test_nothing_that_a_model_may_say_breaks_the_reader():
    draw = random.Random(0)
    for _ in range(3000):
        text = "".join(draw.choice("[]\"',\\ ax0\n({:}") for _ in range(draw.randrange(24)))
        for parser in ("strict", "universal_ner"):
            found = parsed(text, parser)
            assert found is None or all(isinstance(name, str) for name in found)


@pytest.mark.parametrize(
    ("answer", "names"),
    [
        ('["The Ann-Lee!", "ann lee"] and more]', ("annlee", "ann lee")),
        ('["A Bank of the North"]', ("bank of north",)),
        ('["x"', None),
        ("['x']", None),  # Python's quotes are no JSON
        ('["a]b"]', None),  # the first bracket ends it
        ("Sure: []", None),
        ("[1]", None),
        ("[]", ()),
    ],
)
def test_universal_ner_s_rules(answer, names):
    """Its evaluation takes each None for an empty list; here they are told apart."""
    assert parsed(answer, "universal_ner") == names
    assert bare("  The  U.S. ") == "us"


# F1


def drawn_answers(seed, parser="strict"):
    """(answers as measures read them, what was said, what is true), some of them unreadable."""
    draw = random.Random(seed)
    names = [f"N{number}" for number in range(7)]
    rows = []
    for text in range(60):
        for kind in ("person", "place"):
            gold = draw.sample(names, draw.randrange(4))
            said = [name for name in gold if draw.random() < 0.7]
            said += draw.sample(names, draw.randrange(3))
            told = "nothing at all" if draw.random() < 0.1 else json.dumps(said)
            said = [] if told == "nothing at all" else said
            rows.append((Answer.of(str(text), kind, told, gold, parser), set(said), set(gold)))
    return rows


@pytest.mark.parametrize("seed", range(5))
def test_micro_f1_is_that_of_an_independent_scorer(seed):
    """scikit-learn's F1 over (text, name) pairs that are said or not, true or not."""
    rows = drawn_answers(seed)
    measures = EntityMeasures("person", ("place",))
    found = measures.read(
        [one for one, _, _ in rows], ["person", "place"], list(map(str, range(60)))
    )
    for kind in ("person", "place"):
        own = [row for row in rows if row[0].type == kind]
        pairs = [(said, gold, name) for _, said, gold in own for name in sorted(said | gold)]
        expected = f1_score(
            [name in gold for _, gold, name in pairs], [name in said for said, _, name in pairs]
        )
        assert found[f"entities/{kind}/f1"].value == pytest.approx(expected, abs=1e-12)
    assert found["entities/retained/f1"].value == found["entities/place/f1"].value


def test_an_answer_that_is_no_list_has_not_forgotten():
    """Four models on one question: F1 alone cannot tell the silent from the broken one."""
    measures = EntityMeasures("person", ("place",))

    def read(answer):
        rows = [Answer.of("t", kind, answer, ["Ann"], "strict") for kind in ("person", "place")]
        return {k: v.value for k, v in measures.read(rows, ["person", "place"], ["t"]).items()}

    right, silent, broken, wrong = map(read, ('["Ann"]', "[]", "Ann", '["Bo"]'))
    assert right["entities/person/f1"] == 1
    assert silent["entities/person/f1"] == broken["entities/person/f1"] == 0
    assert (silent["entities/place/empty"], silent["entities/place/unread"]) == (1, 0)
    assert (broken["entities/place/empty"], broken["entities/place/unread"]) == (0, 1)
    assert (wrong["entities/place/empty"], wrong["entities/place/unread"]) == (0, 0)


def test_the_roles_of_what_is_declared():
    measures = EntityMeasures("person", ("place", "day"))
    roles = {role: [one.name for one in measures.declared if one.role is role] for role in Role}
    assert roles[Role.TARGET] == ["entities/person/f1"]
    assert roles[Role.UTILITY] == ["entities/retained/f1"]
    assert roles[Role.GUARD] == [
        "entities/person/unread",
        "entities/place/empty",
        "entities/place/unread",
        "entities/day/empty",
        "entities/day/unread",
    ]
    # To say nothing of the target is what is asked for.
    assert roles[Role.INFORMATION] == [
        "entities/place/f1",
        "entities/day/f1",
        "entities/person/empty",
    ]


def test_texts_are_paired_whatever_the_answers_order():
    rows = [one for one, _, _ in drawn_answers(3)]
    measures, order = EntityMeasures("person", ("place",)), [str(n) for n in range(60)]
    one = measures.read(rows, ["person"], order)["entities/person/f1"]
    other = measures.read(rows[::-1], ["person"], order)["entities/person/f1"]
    np.testing.assert_array_equal(one.numerator, other.numerator)
    assert one.n_contexts == 60


# Relevance without anybody's entities


@pytest.mark.parametrize("wording", ["paper", "universal_ner"])
def test_an_answer_is_relevant_where_what_it_names_stands_in_the_text(wording):
    oracle = make_oracle(EntityOracle(wording=wording))
    prompt = plain(wording, "Ann Lee met Bo in Rome.", "person")
    said = ['["Ann Lee", "Bo"]', '["Ann Lee", "Cy"]', '["person"]', "[]", "Ann Lee", '["Entity1"]']
    assert oracle.score([prompt] * len(said), said).tolist() == [1, 0.5, 0, 0, 0, 0]
    assert oracle.score([f"<user>{prompt}<assistant>"], ['["Bo"]']).tolist() == [1]
    assert oracle.score(["What is it?"], ['["Bo"]']).tolist() == [0]
