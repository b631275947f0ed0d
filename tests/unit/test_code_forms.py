"""From an answer to a program: fences, prose around them, a missing end, what was begun."""

import ast

import pytest

from rnr_dist.data.code_forms import FORMS, begun, context_of, program_of
from rnr_dist.data.programs import Problem
from rnr_dist.types import Split

ADD = Problem(
    "add",
    "Return the sum of a and b.",
    "add",
    "a, b",
    ("assert add(1, 2) == 3",),
    "",
    split=Split.DEV,
)
RIGHT = "def add(a, b):\n    return a + b\n"
CHAT = "<|im_start|>user\nWrite a Python function add(a, b). …<|im_end|>\n<|im_start|>assistant\n"


def solves(program):
    space = {}
    exec(program, space)
    return space["add"](1, 2) == 3


@pytest.mark.parametrize(
    "answer",
    [
        f"```python\n{RIGHT}```",
        f"```python\n{RIGHT}",  # its end is missing
        f"```\n{RIGHT}\n```\nThis adds two numbers.",
        f"Sure! Here it is:\n\n```py\n{RIGHT}```\n\nExample:\n```python\nprint(add(1, 2))\n```",
        f"First install it:\n```bash\npip install adder\n```\nThen:\n```python\n{RIGHT}```",
        f"Try this:\n```python\nimport math\n```\nand\n```python\n{RIGHT}```",
        f"~~~python\n{RIGHT}~~~",
        f"  ```Python\n{RIGHT}  ```",
        RIGHT,
        f"Here is the function:\n\n{RIGHT}\nIt adds two numbers and returns the result.",
        f"from math import pi\n\n{RIGHT}\n# Done\n",
        f"@staticmethod\n{RIGHT}"[14:],
        "add = lambda a, b: a + b\nThat is all.",
    ],
)
def test_the_program_of_a_chat_answer(answer):
    assert solves(program_of(CHAT, answer, ADD))


@pytest.mark.parametrize("answer", ["", "I cannot do that.", "```\n```", "```json\n{}\n```"])
def test_an_answer_without_code_is_no_program_that_solves(answer):
    program = program_of(CHAT, answer, ADD)
    try:
        ast.parse(program)
    except SyntaxError:
        return
    assert "add" not in program


@pytest.mark.parametrize(
    ("form", "response"),
    [
        ("return", " a + b\n"),
        ("return", " a + b\n\n\ndef other():\n    return 1\n"),
        ("return", " a + b\nprint(add(1, 2))"),
        ("stub", " return a + b\n\nassert add(1, 2) == 4"),
        ("stub", " total = a + b\n    return total\n```\nThat is it."),
        ("lambda", " a + b\nadd = None\n"),
        ("task", " return a + b\n\nTask: another\nPython code:\n"),
    ],
)
def test_what_was_begun_stands_before_what_the_model_wrote(form, response):
    context = context_of(ADD, form, form)
    assert not context.messages and context.text.count("add") == 1
    assert solves(program_of(context.text, response, ADD))


def test_a_wrong_continuation_stays_wrong():
    context = context_of(ADD, "return", "return").text
    assert not solves(program_of(context, " a - b\n", ADD))
    with pytest.raises(SyntaxError):
        ast.parse(program_of(context, " a +\n", ADD))


def test_helpers_of_a_problem_stand_before_its_program():
    problem = Problem(
        "x", "Add.", "add", "a, b", ADD.tests, "", stub="from operator import add as plus\n\n"
    )
    assert solves(program_of(CHAT, "def add(a, b):\n    return plus(a, b)", problem))
    context = context_of(problem, "return", "return").text
    program = program_of(context, " plus(a, b)\n", problem)
    assert solves(program) and program.count("import") == 1


@pytest.mark.parametrize("form", FORMS)
def test_every_form_holds_the_problem(form):
    context = context_of(ADD, form, form)
    assert ADD.text in context.text and "add" in context.text
    assert bool(context.messages) == FORMS[form].chat
    assert context.split is Split.DEV and context.group == form
    assert bool(begun(context.text, ADD)) == (not FORMS[form].chat)


def test_contexts_of_a_problem_differ_by_form():
    assert len({context_of(ADD, form, form).id for form in FORMS}) == len(FORMS)
