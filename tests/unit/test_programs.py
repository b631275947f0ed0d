"""Programming problems: readers, splits, bad rows; the built-in set."""

import gzip
import json

import pytest

from rnr_dist.config.coding import ProblemSource, SandboxSettings, Sums
from rnr_dist.config.sources import ContextSource
from rnr_dist.data.examiner import Examiner
from rnr_dist.data.programs import load_programs
from rnr_dist.data.sums import last_number, marked_number, number_in, sums, word_problems
from rnr_dist.errors import InputError
from rnr_dist.sandbox.layers import strongest
from rnr_dist.types import Split

ALL = {"train": 1}
SANDBOX = SandboxSettings(layer=strongest().name, wall_seconds=30.0)
MBPP = {
    "task_id": 11,
    "text": "Write a python function to remove first and last occurrence of a given character.",
    "code": "def helper(s):\r\n    return s\r\n"
    "def remove_Occ(s, ch):\r\n    return helper(s).replace(ch, '')",
    "test_list": [
        'assert remove_Occ("hello","l") == "heo"',
        'assert remove_Occ("abcda","a") == "bcd"',
    ],
    "test_setup_code": "",
    "challenge_test_list": [],
}
HUMAN = {
    "task_id": "HumanEval/3",
    "prompt": "from typing import List\n\n\ndef below(xs: List[int]) -> bool:\n"
    '    """ Any below 0?\n    >>> below([1])\n    False\n    """\n',
    "entry_point": "below",
    "canonical_solution": "    return min(xs, default=0) < 0\n",
    "test": "METADATA = {}\n\ndef check(candidate):\n    assert candidate([1, -1]) == True\n"
    "    assert candidate([]) == False\n",
}
PLUS = {
    "task_id": "Mbpp/20",
    "prompt": '"""\nWrite a function to halve a number.\nassert halve(2) == 1\n"""\n',
    "entry_point": "halve",
    "canonical_solution": "\ndef halve(x):\n    return x / 2\n",
    "base_input": [[2], [5]],
    "plus_input": [[-3], [0.3]],
    "atol": 1e-6,
}
PLAIN = {
    "name": "one",
    "arguments": "",
    "text": "Return the number one.",
    "tests": ["assert one() == 1"],
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RNR_CACHE_DIR", str(tmp_path / "cache"))


def written(tmp_path, *rows, name="problems.jsonl"):
    path = tmp_path / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def load(path, form="plain", **more):
    return load_programs(ProblemSource(source=path, format=form, **{"splits": ALL, **more}))


def passes(problem, program=None):
    examiner = Examiner(SANDBOX, [problem])
    if program is None:
        [verdict] = examiner.solutions([problem]).values()
        return verdict.passed
    return examiner.sandbox.check(problem.check(program)).passed


def test_mbpp_in_its_own_form(tmp_path):
    [one] = load(written(tmp_path, MBPP), "mbpp")
    assert (one.name, one.arguments, one.label) == ("remove_Occ", "s, ch", "task_id 11")
    assert one.tests == tuple(MBPP["test_list"]) and one.text == MBPP["text"]
    assert passes(one) and not passes(one, "def remove_Occ(s, ch):\n    return s")


def test_human_eval_in_its_own_form_packed(tmp_path):
    path = tmp_path / "human.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(HUMAN).encode()))
    [one] = load(str(path), "human_eval")
    assert (one.name, one.arguments) == ("below", "xs: List[int]")
    assert one.text.startswith("Any below 0?") and one.stub.strip() == "from typing import List"
    assert passes(one) and not passes(one, "def below(xs):\n    return False")


def test_eval_plus_tells_inputs_and_its_solution_what_is_right(tmp_path):
    [one] = load(written(tmp_path, PLUS), "eval_plus")
    assert len(one.tests) == 2 and one.text == "Write a function to halve a number."
    assert passes(one) and passes(one, "def halve(x):\n    return x * .5 + 1e-9")
    verdict = Examiner(SANDBOX, [one]).sandbox.check(
        one.check("def halve(x):\n    return abs(x) / 2")
    )
    assert [str(o) for o in verdict.outcomes] == ["passed", "failed"]  # what MBPP+ adds finds it


def test_problems_are_chosen_by_number_and_split(tmp_path):
    rows = [
        {**MBPP, "task_id": n, "text": f"Task {n}: {'abcdefgh'[n % 8] * 9} {n * 7} {n * 31}"}
        for n in range(40)
    ]
    path = written(tmp_path, *rows)
    found = load(path, "mbpp", first=11, last=30, splits={"train": 1, "dev": 1})
    assert len(found) == 20 and {one.split for one in found} == {Split.TRAIN, Split.DEV}
    limited = load(path, "mbpp", splits={"train": 1, "dev": 1}, limit={"dev": 3})
    assert sum(one.split is Split.DEV for one in limited) == 3
    assert load(path, "mbpp", splits={"train": 1, "dev": 1}) == load(
        path, "mbpp", splits={"train": 1, "dev": 1}
    )
    with pytest.raises(InputError, match=r"problems.jsonl: found no problem numbered 50 to 60"):
        load(path, "mbpp", first=50, last=60)


NO_TESTS = r"row 1: problem one has no tests"


@pytest.mark.parametrize(
    ("form", "changed", "told"),
    [
        ("plain", {"tests": []}, NO_TESTS),
        ("plain", {"tests": [" "]}, NO_TESTS),
        ("plain", {"tests": ["assert one( == 1"]}, r"one has the test .*Python cannot read"),
        ("plain", {"tests": "assert one() == 1"}, r"`tests` is .*expected a list of strings"),
        ("plain", {"name": "no name"}, r"row 1: .* names the function 'no name'"),
        ("plain", {"text": " "}, r"row 1: `text` is empty"),
        ("mbpp", {"code": "def f(:"}, r"task_id 11 has a solution that Python cannot read"),
        ("mbpp", {"code": "def f(x): pass"}, r"tests that call no function of its `code`"),
        ("mbpp", {"test_list": ["assert"]}, r"row 1: problem task_id 11"),
        ("human_eval", {"entry_point": "other"}, r"HumanEval/3 defines no function other"),
    ],
)
def test_a_bad_problem_is_one_sentence(tmp_path, form, changed, told):
    row = {"plain": PLAIN, "mbpp": MBPP, "human_eval": HUMAN}[form]
    with pytest.raises(InputError, match=told) as raised:
        load(written(tmp_path, {**row, **changed}), form)
    assert "problems.jsonl, row 1" in str(raised.value)


def test_a_row_without_tests_is_named(tmp_path):
    path = written(tmp_path, {"name": "one", "text": "x"})
    with pytest.raises(InputError, match=r"problems.jsonl, row 1: has no `tests`"):
        load(path)


def test_code_without_end_is_refused_before_it_is_parsed(tmp_path):
    endless = "assert " + "1+" * 3_000_000 + "1"
    with pytest.raises(InputError, match=r"problem one has 6000008 characters of code"):
        load(written(tmp_path, {**PLAIN, "tests": [endless]}))
    with pytest.raises(InputError, match=r"task_id 11 has 5000000 characters of code"):
        load(written(tmp_path, {**MBPP, "code": "x" * 5_000_000}), "mbpp")


@pytest.mark.parametrize(
    ("form", "row", "told"),
    [
        ("human_eval", MBPP, r"has no `prompt`, found task_id"),
        ("mbpp", HUMAN, r"has no `code`, found task_id"),
        ("plain", MBPP, r"has no `name`, found task_id"),
    ],
)
def test_a_file_of_another_format_is_told_by_what_it_lacks(tmp_path, form, row, told):
    with pytest.raises(InputError, match=f"problems.jsonl, row 1: {told}"):
        load(written(tmp_path, row), form)


def test_mixed_encodings_are_one_sentence(tmp_path):
    path = tmp_path / "problems.jsonl"
    row = json.dumps({**PLAIN, "text": "Größe"}, ensure_ascii=False)
    path.write_bytes((row + "\n").encode() + (row + "\n").encode("latin-1"))
    with pytest.raises(InputError, match=r"(?i)problems.jsonl.*utf-8"):
        load(str(path))


def test_columns_are_not_for_problems(tmp_path):
    with pytest.raises(ValueError, match="columns"):
        ProblemSource(source="x", splits=ALL, columns={"text": "prompt"})


# The built-in set


def test_every_builtin_problem_is_solved_by_its_own_solution():
    problems = load("builtin:coding")
    assert len(problems) >= 240 and len({one.name for one in problems}) == len(problems)
    # One process for all: each is trusted, and the sandbox has tests of its own.
    for one in problems:
        space = {}
        exec(one.solution, space)
        for test in one.tests:
            exec(test, space)
        assert one.text and one.solution.startswith(("def ", "import "))


def test_the_builtin_tests_refuse_a_constant():
    """A function that always gives the same passes no problem that has arguments."""
    for one in load("builtin:coding"):
        if not one.arguments:
            continue
        for constant in (None, True, False, 0, 1, "", [], 42):
            space = {one.name: lambda *args, _constant=constant: _constant}
            with pytest.raises(Exception):  # noqa: B017 (some tests do arithmetic with it)
                for test in one.tests:
                    exec(test, space)


def test_the_configs_splits_leave_eighty_problems_for_the_table():
    shares = {"reveal": 1, "train": 3.5, "search": 1.2, "dev": 1.2, "final": 3.1}
    problems = load("builtin:coding", splits=shares)
    assert sum(one.split is Split.FINAL for one in problems) >= 80


# Numbers


def test_numbers_are_read_by_both_rules():
    assert number_in(" 12\n3") == 12 and number_in("none") is None
    assert last_number("He has 1,234 and then 7.5.") == 7.5 and last_number("") is None
    assert marked_number("so 3\n#### 1,200") == 1200 and marked_number("#### $5") == 5
    assert marked_number("it is 7") is None


def test_sums_are_right_different_and_apart_by_split():
    settings = Sums()
    held = {
        split: sums(settings, split, 300) for split in (Split.SEARCH, Split.FINAL, Split.RETAIN)
    }
    texts = [one.text for part in held.values() for one in part]
    assert len(set(texts)) == len(texts) == 900
    for one in (one for part in held.values() for one in part):
        *shots, asked = one.text.split("\n")
        assert len(shots) == 3 and all(eval(shot.replace("=", "==")) for shot in shots)
        assert eval(asked.removesuffix("=")) == one.answer == number_in(one.solution)
    assert held[Split.FINAL] == sums(settings, Split.FINAL, 300)
    with pytest.raises(
        InputError, match=r"^task.sums: found \d+ different sums for final, expected 99"
    ):
        sums(Sums(largest=2, second=2, examples=0), Split.FINAL, 99)


def test_word_problems_in_their_own_form(tmp_path):
    rows = [
        {"question": f"What is {n} and {n}?", "answer": f"{n}+{n}={2 * n}\n#### {2 * n}"}
        for n in range(30)
    ]
    path = written(tmp_path, *rows)
    found = word_problems(
        ContextSource(source=path, splits={"retain": 1, "final": 1}, limit={"final": 4})
    )
    assert sum(one.split is Split.FINAL for one in found) == 4
    one = found[0]
    assert one.text.startswith("Question: What is") and marked_number(one.solution) == one.answer
    bad = written(tmp_path, {"question": "How many?", "answer": "many"}, name="bad.jsonl")
    with pytest.raises(InputError, match=r"bad.jsonl, row 1: `answer` has no `#### n`"):
        word_problems(ContextSource(source=bad, splits=ALL))
