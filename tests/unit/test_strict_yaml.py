"""Configs say what was typed: no guess, no second key, no alias without end, no smuggled line."""

import math

import pytest

from rnr_dist.config.strict_yaml import MOST_VALUES, read_override, read_yaml
from rnr_dist.errors import InputError


def refused(text, variables=None):
    with pytest.raises(InputError) as caught:
        read_yaml(text, "c.yaml", variables)
    message = str(caught.value)
    assert message.startswith("c.yaml") and "\n" not in message
    return message


@pytest.mark.parametrize(
    "typed", ["yes", "no", "on", "off", "010", "1:30", "0x1f", "1_000", "2024-01-01", "9" * 19]
)
def test_what_yaml_1_1_guesses_at_stays_a_text(typed):
    assert read_yaml(f"key: {typed}", "c.yaml") == {"key": typed}
    assert read_override(typed, "--set") == typed


def test_numbers_truths_and_nothing_are_read():
    text = "[1, -2, +3, 0, 1.5, .5, 2., 1e-4, 2.5E+2, -1e3, true, False, null, ~, '5', .inf]"
    expected = [1, -2, 3, 0, 1.5, 0.5, 2.0, 1e-4, 250.0, -1e3, True, False, None, None, "5"]
    found = read_yaml(text, "c.yaml")
    assert found == [*expected, math.inf]
    assert [type(one) for one in found[:15]] == [type(one) for one in expected]
    assert read_yaml("", "c.yaml") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "line 3: found the key 'a' a second time (before in line 1)"),
        ("x:\n  - {a: 1, a: 1}", "line 2: found the key 'a' a second time"),
        ("{[a]: 1}", "line 1: found a sequence as a key"),
        ("a: &a [*a]", "found an alias that leads to itself"),
        ("a: &a {b: {c: *a}}", "found an alias that leads to itself"),
        ("<<: &a {<<: *a}", "found an alias that leads to itself"),
        ("a: !!int '5'", "found the tag tag:yaml.org,2002:int"),
        ("a: !!python/name:os.system x", "found the tag"),
        ("a: !!set {b}", "found the tag"),
        (r'a: "\0"', r"line 1: found '\x00', expected no NUL"),
        (r'a: "\ud800"', r"line 1: found '\ud800', expected no NUL and whole characters"),
        (r'a: "\UFFFFFFFF"', "is no YAML"),
        (f"%YAML {'9' * 5000}.1\n---\na: 1", "is no YAML"),
        ("[" * 5000, "levels at most"),
        ("[" * 60 + "]" * 60, "40 levels"),
        ("a: 1\n---\na: 2", "is no YAML"),
        ("a: \x01", "is no YAML"),
    ],
)
def test_what_cannot_be_meant_is_refused(text, message):
    assert message in refused(text)


def test_aliases_that_explode_are_refused_before_they_do():
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 7)]
    assert f"found more than {MOST_VALUES} values" in refused("\n".join(levels))


def test_an_alias_stands_for_values_of_its_own():
    found = read_yaml("a: &a {b: [1]}\nc: *a\nd: {<<: *a, e: 2}", "c.yaml")
    assert found == {"a": {"b": [1]}, "c": {"b": [1]}, "d": {"b": [1], "e": 2}}
    found["a"]["b"].append(2)
    assert found["c"] == {"b": [1]}
    assert found["d"]["b"] == [1]


def test_a_variable_stands_within_one_value():
    variables = {"EVIL": "x\ntrust_remote_code: true", "HASH": "a #b", "COLON": "a: b", "N": "7"}
    variables |= {"LIST": "[1, 2]", "EMPTY": "", "AGAIN": "${N}", "LINE": "7\n", "YES": "true\n"}
    for name in ("EVIL", "HASH", "COLON", "LIST", "EMPTY", "AGAIN", "LINE", "YES"):
        assert read_yaml(f"key: ${{{name}}}", "c", variables) == {"key": variables[name]}
        assert read_yaml(f"key: '${{{name}}}'", "c", variables) == {"key": variables[name]}
    assert read_yaml("[${N}, '${N}', /a/${N}/b]", "c", variables) == [7, "7", "/a/7/b"]
    assert read_yaml("a: &a ${AGAIN}\nb: *a", "c", variables) == {"a": "${N}", "b": "${N}"}
    assert read_yaml("# ${NONE}\na: 1  # ${NONE}", "c", variables) == {"a": 1}
    assert read_yaml("${N}: 1", "c", variables) == {"${N}": 1}
    assert "line 2: uses ${NONE}, which is not set" in refused("a: 1\nb: ${NONE}", variables)
    assert "whole characters" in refused("a: ${RAW}", {"RAW": "\udcff"})


@pytest.mark.parametrize(
    ("typed", "value"),
    [
        ("/data/a #b", "/data/a #b"),
        ("a: b", "a: b"),
        ("#1", "#1"),
        ("*x", "*x"),
        ("- a", "- a"),
        ("it's", "it's"),
        ("${HOME}", "${HOME}"),
        ("'x # y'", "x # y"),
        ("[1, {a: b}]", [1, {"a": "b"}]),
        ("5", 5),
        ("1e-4", 1e-4),
        ("", None),
    ],
)
def test_an_override_stands_as_it_was_typed_unless_it_is_a_list_a_section_or_quoted(typed, value):
    assert read_override(typed, "--set") == value
