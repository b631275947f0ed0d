"""The sandbox's rules: plain values, what a test asks for, verdicts, what is kept or refused."""

import math
import pickle
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from decimal import Decimal
from fractions import Fraction

import pytest

from rnr_dist.errors import InputError
from rnr_dist.sandbox import layers
from rnr_dist.sandbox.asked import asked
from rnr_dist.sandbox.inside import values
from rnr_dist.sandbox.kept import Kept
from rnr_dist.sandbox.layers import Layer, layer_of, process_layer, strongest
from rnr_dist.sandbox.runner import Sandbox
from rnr_dist.sandbox.verdicts import Check, Limits, Outcome, Verdict

LIMITS = Limits(cpu=2, wall=30.0)
PASSED, FAILED = Outcome.PASSED, Outcome.FAILED
Point = namedtuple("Point", "x y")


def outcomes(program, *tests, limits=LIMITS, **more):
    return Sandbox(strongest(), limits).check(Check(program, tests, **more)).outcomes


# Values


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, 0, -(10**400), 1.5, float("inf"), "", "ä\ud800\n", b"\x00\xff", 2 - 3j),
        *([], (), {}, set(), frozenset({1}), range(2, 9, 3), deque([1, 2])),
        *({(1, "a"): [None, {2: (3.5,)}]}, [[[]]], Fraction(1, 3), Decimal("1.10")),
    ],
    ids=repr,
)
def test_a_plain_value_arrives_as_it_was_sent(value):
    found = values.read(values.written(value))
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("value", "arrives"),
    [
        (Counter("aab"), {"a": 2, "b": 1}),
        (OrderedDict(a=1), {"a": 1}),
        (defaultdict(int, a=1), {"a": 1}),
        (Point(1, 2), (1, 2)),
        (type("Own", (int,), {"__eq__": lambda *_: True, "__hash__": int.__hash__})(3), 3),
        (type("Own", (str,), {"__eq__": lambda *_: True, "__hash__": str.__hash__})("a"), "a"),
    ],
    ids=repr,
)
def test_of_a_subclass_the_content_alone_arrives(value, arrives):
    found = values.read(values.written(value))
    assert type(found) is type(arrives) and arrives == found


def test_nan_and_iterators_keep_what_they_are():
    assert math.isnan(values.read(values.written(math.nan)))
    found = values.read(values.written(map(str, [1, 2])))
    assert found != ["1", "2"] and list(found) == ["1", "2"]


OTHER = {"object": object(), "len": len, "int": int, "iterator": iter(int, 1), "list": [object()]}


@pytest.mark.parametrize("value", OTHER.values(), ids=OTHER)
def test_other_values_do_not_leave(value):
    with pytest.raises(values.NoPlainValue):
        values.written(value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        '["os", "x"]',
        '["dict", [1]]',
        '["set", [["list", []]]]',
        "[" * 9999,
        '["range", [1, 2, 0]]',
    ],
)
def test_what_nobody_wrote_is_no_value(text):
    with pytest.raises(ValueError):
        values.read(text)


# What a test asks for


def test_names_that_nobody_defines_are_asked_of_the_program():
    found = asked("import re as r\nLIMIT = 2", "def own(a):\n    return f(a, LIMIT)\nassert own(1)")
    assert found["asks"] == ["f"] and found["modules"] == []
    assert asked("", "assert math.isclose(g(x=1), 2)")["modules"] == ["math"]
    assert asked("", "assert sum(1) == sum(2)")["asks"] == []
    assert asked("", "assert sum(1) == sum(2)", "sum")["asks"] == ["sum"]


def test_a_function_may_be_called_as_one_of_pythons_own():
    program = "def sum(a, b):\n    return a - b"
    assert outcomes(program, "assert sum(5, 3) == 2", function="sum") == (PASSED,)


# Verdicts


def test_each_test_has_its_outcome():
    program = "def f(x):\n    if x == 3:\n        raise KeyError('three')\n    return x + 1"
    tests = ("assert f(1) == 2", "assert f(2) == 4", "assert f(3) == 4", "assert f(4) == 5")
    verdict = Sandbox(strongest(), LIMITS).check(Check(program, tests))
    assert verdict.outcomes == (PASSED, FAILED, Outcome.RAISED, PASSED)
    assert verdict.share == 0.5 and not verdict.passed and verdict.outcome is FAILED
    assert verdict.detail == "assert f(2) == 4: AssertionError" and 0 < verdict.seconds < 2


def test_state_of_the_program_lasts_over_its_tests():
    program = "held = []\ndef put(x):\n    held.append(x)\n    return len(held)"
    assert outcomes(program, "assert put(1) == 1", "assert put(1) == 2") == (PASSED, PASSED)


def test_tests_may_expect_what_the_program_raises():
    program = "class Own(ValueError):\n    pass\ndef f(x):\n    raise Own('no')"
    test = "try:\n    f(1)\nexcept ValueError as e:\n    assert 'no' in str(e)\nelse:\n    assert 0"
    assert outcomes(program, test) == (PASSED,)
    assert outcomes(program, test.replace("ValueError", "KeyError")) == (Outcome.RAISED,)


def test_after_an_endless_loop_no_test_has_an_answer():
    program = "def f(x):\n    while x:\n        pass\n    return x"
    tests = ("assert f(0) == 0", "f(1)", "assert f(0) == 0")
    found = outcomes(program, *tests, limits=Limits(cpu=1, wall=30.0))
    assert found == (PASSED, Outcome.TIMED_OUT, Outcome.TIMED_OUT)


def test_tests_that_do_not_end_are_late():
    sandbox = Sandbox(strongest(), Limits(cpu=1, wall=0.2))
    verdict = sandbox.check(Check("x = 1", ("import time\ntime.sleep(60)",)))
    assert verdict.outcome is Outcome.TIMED_OUT and verdict.hurried


@pytest.mark.parametrize(
    ("program", "limits", "outcome"),
    [
        ("def f():\n    return len(bytearray(2**27))", Limits(memory=2**27), Outcome.OUT_OF_MEMORY),
        ("def f():\n    return 'x' * 5000", Limits(output=4000), Outcome.TOO_MUCH),
        ("def f():\n    return 'x' * 5000", Limits(output=8000), PASSED),
    ],
)
def test_limits_are_those_that_are_given(program, limits, outcome):
    assert outcomes(program, "f()", limits=limits) == (outcome,)


@pytest.mark.parametrize("program", ["def f(:", "x = '\ud800'", "x = '\0'", "(" * 300 + ")" * 300])
def test_what_does_not_parse_is_told_apart(program):
    verdict = Sandbox(strongest(), LIMITS).check(Check(program, ("f()", "f()")))
    assert verdict.outcomes == (Outcome.UNPARSED,) * 2 and not verdict.parses


def test_what_fails_parses():
    program = "def f():\n    eval('1 +')"
    verdict = Sandbox(strongest(), LIMITS).check(Check(program, ("f()", "g()")))
    assert verdict.outcomes == (Outcome.RAISED,) * 2 and verdict.parses


def test_what_a_program_says_is_short_and_harms_no_terminal():
    program = "def f():\n    raise ValueError('\x1b[2J\\n' + 'x' * 10**5)"
    detail = Sandbox(strongest(), LIMITS).check(Check(program, ("f()",))).detail
    assert detail.startswith("f(): ValueError: �[2J") and len(detail) <= 300
    assert detail.isprintable()


# Many checks


def test_equal_checks_run_once_and_answers_keep_their_order(tmp_path):
    class Counting(Sandbox):
        ran = 0

        def check(self, check, limits=None):
            Counting.ran += 1
            return super().check(check, limits)

    good, bad = (Check(f"def f():\n    return {n}", ("assert f() == 1",)) for n in (1, 2))
    verdicts = Counting(strongest(), LIMITS).check_all([good, bad, good, good])
    assert [one.passed for one in verdicts] == [True, False, True, True] and Counting.ran == 2


def test_a_verdict_is_kept_by_program_tests_limits_and_layer(tmp_path):
    path = tmp_path / "sub" / "kept.sqlite"
    check, layer = Check("x = 1", ("assert f() == 1",)), strongest()
    marked = Verdict((PASSED,), "from the file", 0.5)
    Kept(path).put(check.key(LIMITS, layer.name), marked)
    sandbox = Sandbox(layer, LIMITS, Kept(path))
    assert sandbox.check(check) == marked
    assert sandbox.check(check, Limits(cpu=2, wall=31.0)).outcome is Outcome.RAISED
    other = Check("x = 2", check.tests)
    assert sandbox.check(other).outcome is Outcome.RAISED
    assert Kept(path).get(other.key(LIMITS, layer.name)) == sandbox.check(other)


def test_what_keeps_verdicts_goes_to_other_processes(tmp_path):
    kept = Kept(tmp_path / "kept.sqlite")
    kept.put("key", Verdict((FAILED,), "why"))
    assert pickle.loads(pickle.dumps(kept)).get("key") == Verdict((FAILED,), "why")


@pytest.mark.parametrize(("load", "passes"), [(1000.0, True), (0.0, False)])
def test_on_a_busy_machine_a_late_program_has_a_second_try(load, passes, monkeypatch):
    monkeypatch.setattr("os.getloadavg", lambda: (load,) * 3)
    check = Check("import time\ntime.sleep(1.5)\ndef f():\n    return 1", ("assert f() == 1",))
    assert Sandbox(strongest(), Limits(wall=1.0)).check(check).passed is passes


def test_what_a_busy_machine_decided_is_not_kept(tmp_path):
    kept = Kept(tmp_path / "kept.sqlite")
    check, limits = Check("import time\ntime.sleep(60)", ("f()",)), Limits(cpu=1, wall=0.2)
    assert Sandbox(strongest(), limits, kept).check(check).hurried
    assert kept.get(check.key(limits, strongest().name)) is None


def test_a_broken_file_of_verdicts_costs_nothing_else(tmp_path):
    path = tmp_path / "kept.sqlite"
    path.write_bytes(b"no database at all, but long enough to be looked at" * 50)
    sandbox = Sandbox(strongest(), LIMITS, Kept(path))
    assert sandbox.check(Check("def f():\n    return 1", ("assert f() == 1",))).passed


# Layers


def test_without_namespaces_the_config_must_say_so(monkeypatch):
    told = None, "bwrap can make none here (Operation not permitted)"
    monkeypatch.setattr(layers, "namespaces_layer", lambda: told)
    with pytest.raises(
        InputError, match=r"^task.sandbox.layer: found namespaces, but bwrap can .*process"
    ):
        layer_of("namespaces")
    assert layer_of("process").name == strongest().name == "process"


@pytest.mark.parametrize(
    ("layer", "lacks"),
    [
        (Layer("namespaces", "/bwrap", b"x"), ["faults of the kernel"]),
        (Layer("process", "", b"x", True), ["faults of the kernel", "whether a file is there"]),
        (Layer("process", "", b"x"), ["faults of the kernel", "no Landlock"]),
        (Layer("process"), ["faults of the kernel", "new processes, sockets", "no Landlock"]),
    ],
)
def test_a_layer_says_what_it_does_not_keep_off(layer, lacks):
    active, left = layer.describe()
    assert active.startswith(f"sandbox {layer.name}: limits of time")
    assert all(what in left for what in lacks) and left.count(";") >= len(lacks) - 1
    assert ("seccomp" in active) == bool(layer.filter)


def test_a_guard_that_the_kernel_refuses_is_no_verdict():
    broken = Layer("process", "", b"no filter of any kind at all....", False)
    with pytest.raises(
        InputError, match=r"^task.sandbox.layer: found process, but the kernel would not install"
    ):
        Sandbox(broken, LIMITS).check(Check("def f():\n    return 1", ("assert f() == 1",)))


@pytest.mark.parametrize("layer", [strongest(), process_layer()], ids=lambda one: one.name)
def test_of_pythons_packages_the_library_alone_is_there(layer):
    program = "def f(name):\n    return type(__import__(name)).__name__"
    verdict = Sandbox(layer, LIMITS).check(Check(program, ("f('statistics')", "f('numpy')")))
    assert verdict.outcomes == (PASSED, Outcome.RAISED)
