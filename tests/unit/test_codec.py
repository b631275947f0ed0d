"""The codec: every dataclass that a run writes comes back equal, and damage is named."""

import json
import math
from dataclasses import dataclass, fields, is_dataclass

import numpy as np
import pytest

from rnr_dist.config.reveal import Reveal
from rnr_dist.errors import InputError
from rnr_dist.icu.leaving import EpochReading, Limits
from rnr_dist.icu.levels import Levels
from rnr_dist.icu.worker import EpochProgress
from rnr_dist.measures.measure import Measure, Role
from rnr_dist.measures.results import Auc, Results, Row, Score
from rnr_dist.methods.merge import Budget, Merged
from rnr_dist.methods.stage import Forgotten
from rnr_dist.release.choice import Trial
from rnr_dist.release.joint import Point
from rnr_dist.release.loop import ReleasedStep
from rnr_dist.release.rules import Reading, Verdict
from rnr_dist.reveal.history import Fill, History, Move
from rnr_dist.run.codec import from_plain, to_plain
from rnr_dist.run.directory import read, write
from rnr_dist.run.events import EventLog
from rnr_dist.run.seal import FinalReading
from rnr_dist.stats import ClusterMean
from rnr_dist.tasks.evaluation import Measured
from rnr_dist.train.states import Progress
from rnr_dist.train.trainings import Note
from rnr_dist.types import Adapter, Arm, ModelRef, NamedModel, Pull, Split, digest
from tests.unit.readings import BASE as READ
from tests.unit.readings import texts

NAN, INFINITY = math.nan, math.inf
ADAPTER = Adapter("/far/adapter", "a", "base", "forget")
MODEL = ModelRef("/far/model", "base").plus(-1.5, ADAPTER).plus(0.5, ADAPTER)
LIMITS = Limits(0.25, NAN, 1e-300, INFINITY)
VERDICT = Verdict(0.1, NAN, "", 0.5, ("forgetting", "utility"))
TRIAL = {"step": "-f0", "coefficient": 1.5, "rule": "", "broken": ["utility"], "violation": None}
SCORE = Score(NAN, (-INFINITY, 1.0), 4, 12, NAN, (0.5, INFINITY))
MEASURE = Measure("said/rude", "rude", "share", "lower", Role.TARGET, adds="share", table="Said")
AUC = Auc((0.1, NAN), (0.3,))
ROW = Row("-f0", "step", "m", Split.FINAL, {"said/rude": texts(3.0), "auc": AUC}, {"terms": [1]})
MERGED = Merged("dpo", MODEL, "{} x 1", True, (), 100, 5, 1, (Trial("1", 0, VERDICT),))
VALUES = [
    ADAPTER,
    MODEL,
    Arm(3, (0.1, 1 / 3), "Schöne\nGrüße"),
    Pull("p", 0, 3, "Say", 0.5, NAN, 0.25, 0, 16),
    Fill(1, 3, "Say", 0.5, 0.6, 0.4, 8, 2, 1),
    Move(1, 3, "p", None, "gone"),
    ClusterMean(np.array([1.0, NAN, -INFINITY]), np.array([1.0, 0.0, 2.0]), proportion=True),
    ClusterMean(np.zeros(0), np.zeros(0)),
    Reading("m", {"in_domain": texts(20.0)}),
    READ,
    VERDICT,
    Trial("1.5", 1, VERDICT),
    Point("x", (1.0, -0.5), None, 0.9, True, (0.1, 0.2), front=True),
    Point("y", (), 0.25, NAN, False),
    ReleasedStep(
        "-f0", "subtract", True, 1.5, False, "", ("utility",), MODEL, READ, (TRIAL, TRIAL)
    ),
    NamedModel("joint", "step", MODEL),
    Measured("base", "digest", {"perplexity/in_domain": texts(3.0), "auc": AUC}),
    Note("f", ADAPTER),
    Note("f", MODEL),
    Budget(100, 5),
    MERGED,
    Forgotten("dpo", MODEL, {"tokens": 3, "broken": ["utility"]}),
    MEASURE,
    SCORE,
    AUC,
    ROW,
    Results((MEASURE,), (ROW,), "-f0"),
    FinalReading("evaluate", "f", "c0ffee", "2025-01-01 12:00"),
    LIMITS,
    Levels(LIMITS, {"one": LIMITS}),
    EpochReading(2, (NAN, 0.5), (), (0.1,), (INFINITY,)),
    Progress(3, 40, 1.5, [2.0, NAN]),
    EpochProgress(3, 1, 40, 1.5, 0.5, [True, False], [{"epoch": 1, "memorisation": [NAN]}]),
]


def same(left, right):
    """Equal, of the same types all through, where NaN equals NaN."""
    if type(left) is not type(right):
        return False
    if is_dataclass(left):
        return all(same(getattr(left, f.name), getattr(right, f.name)) for f in fields(left))
    if isinstance(left, np.ndarray):
        return left.dtype == right.dtype and np.array_equal(left, right, equal_nan=True)
    if isinstance(left, dict):
        return [*left] == [*right] and all(same(left[key], right[key]) for key in left)
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    return left == right or (left != left and right != right)


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_a_value_comes_back_from_its_file_as_it_was(tmp_path, value):
    path = tmp_path / "value.json"
    write(path, value)
    assert same(read(path, type(value)), value)
    write(path, [value, value])
    assert same(read(path, tuple[type(value), ...]), (value, value))
    write(path, {"one": value})
    assert same(read(path, dict[str, type(value)]), {"one": value})


def test_what_would_not_be_the_same_is_noticed():
    assert not same((1,), [1])
    assert not same(Limits(0, 0, 0, NAN), Limits(0, 0, 0, 0.0))
    assert not same({"a": np.zeros(2)}, {"a": np.zeros(3)})


def test_the_shape_on_disk_is_the_fields():
    assert to_plain(ADAPTER) == {
        "path": "/far/adapter",
        "digest": "a",
        "trained_on": "base",
        "side": "forget",
    }
    found = to_plain(Measured("x", "m", {"a": ClusterMean(np.ones(2), np.ones(2)), "b": AUC}))
    measure = {"numerator": [1.0, 1.0], "denominator": [1.0, 1.0]}
    measure |= {"exponential": False, "proportion": False}
    plain = {"lower": [0.1, pytest.approx(NAN, nan_ok=True)], "higher": [0.3]}
    assert found == {"name": "x", "model": "m", "values": {"a": measure, "b": plain}}
    assert to_plain({"n": np.int64(3), "yes": np.bool_(True), "x": np.float32(0.5)}) == {
        "n": 3,
        "yes": True,
        "x": 0.5,
    }


def test_digests_are_what_they_were():
    # Numbers stay whole where they were whole: a fingerprint tells 0 from 0.0.
    assert json.dumps(to_plain(Limits(0, 0, 0.95, 1))) == (
        '{"bertscore": 0, "bleu": 0, "extraction": 0.95, "memorisation": 1}'
    )
    assert MODEL.digest == digest(["base", [[-1.5, "a"], [0.5, "a"]]])
    assert from_plain(ModelRef, to_plain(MODEL)).digest == MODEL.digest


def test_an_older_file_gets_defaults_and_a_newer_one_loses_what_is_unknown():
    older = {key: value for key, value in to_plain(VALUES[4]).items() if key != "n_near"}
    assert from_plain(Fill, {**older, "unheard_of": 1}).n_near == 0


def test_an_adapter_of_an_older_file_has_its_side_under_another_name():
    older = to_plain(ADAPTER)
    older["role"] = older.pop("side")
    assert from_plain(Adapter, older) == ADAPTER
    with pytest.raises(InputError, match="found no `side`"):
        from_plain(Adapter, {key: value for key, value in older.items() if key != "role"})


@dataclass(frozen=True)
class Leaf:
    number: int


@dataclass(frozen=True)
class Tree:
    children: tuple["Tree | Leaf", ...]
    split: Split | None = None


def test_unions_and_enumerations_nest():
    tree = Tree((Tree((Leaf(1),), Split.DEV), Leaf(2)))
    back = from_plain(Tree, json.loads(json.dumps(to_plain(tree))))
    assert back == tree and back.children[0].split is Split.DEV


@pytest.mark.parametrize(
    ("kind", "value", "damage", "expected"),
    [
        (ModelRef, MODEL, lambda c: c.pop("checkpoint"), "found no `checkpoint`; expected one"),
        (
            ModelRef,
            MODEL,
            lambda c: c["terms"][1]["adapter"].pop("digest"),
            "found no `terms.1.adapter.digest`; expected one",
        ),
        (
            ModelRef,
            MODEL,
            lambda c: c["terms"][0].update(coefficient="much"),
            "`terms.0.coefficient`: found 'much'; expected a valid number",
        ),
        (
            NamedModel,
            NamedModel("a", "step", MODEL),
            lambda c: c["model"]["terms"][0]["adapter"].update(side="both"),
            "`model.terms.0.adapter.side`: found 'both'; expected 'forget' or 'retain'",
        ),
        (
            Reading,
            READ,
            lambda c: c["forget"].update(numerator=["a", 1]),
            "`forget.numerator`: found ['a', 1]; expected a list of numbers",
        ),
        (
            Reading,
            READ,
            lambda c: c["forget"].update(numerator={"a": 1}),
            "`forget.numerator`: found {'a': 1}; expected a list of numbers",
        ),
        (
            Row,
            ROW,
            lambda c: c.update(split="search party"),
            "`split`: found 'search party'; expected 'reveal'",
        ),
        (Score, SCORE, lambda c: c.update(ci95=[0.5]), "`ci95.1`"),
    ],
)
def test_what_is_damaged_is_named_by_file_and_key(tmp_path, kind, value, damage, expected):
    content = json.loads(json.dumps(to_plain(value)))
    damage(content)
    path = tmp_path / "value.json"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError) as refused:
        read(path, kind)
    sentence = str(refused.value)
    assert sentence.startswith(f"{path}: ") and "\n" not in sentence
    assert expected in sentence


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"checkpoint": "/x", "checkp', "found no whole JSON"),
        ("", "found no whole JSON"),
        ("[1]", "`the whole value`: found [1]; expected a dictionary or an instance of ModelRef"),
        ("null", "`the whole value`: found None"),
    ],
)
def test_half_a_file_is_named(tmp_path, text, expected):
    path = tmp_path / "value.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"value\.json: ") as refused:
        read(path, ModelRef)
    assert expected in str(refused.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match=r"value\.json: not there"):
        read(tmp_path / "value.json", ModelRef)


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        ({"event": "pull", "pull": {"id": "p"}}, "found no `outer`"),
        ({"event": "pull"}, "`the whole value`: found None"),
        ({"event": "push"}, "found the event 'push'; expected pull, repeat"),
    ],
)
def test_a_damaged_log_is_named(tmp_path, event, expected):
    EventLog(tmp_path / "events.jsonl").append(event)
    with pytest.raises(InputError, match=r"events\.jsonl: ") as refused:
        History(tmp_path, Reveal(), 4)
    assert expected in str(refused.value)


def test_what_has_no_json_is_refused():
    with pytest.raises(Exception, match="object: no JSON value"):
        to_plain({"a": object()})
