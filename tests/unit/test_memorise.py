"""What memorising goes over, and what of the general text is read when; the training is a fake."""

from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from rnr_dist.config.file import load_any_config
from rnr_dist.config.schema import Config
from rnr_dist.data.sources import load_passages
from rnr_dist.errors import InputError
from rnr_dist.icu.data import IcuData, load_icu_data
from rnr_dist.recipes import unlearn_sequences as stages
from rnr_dist.run.directory import RunDir
from rnr_dist.types import ModelRef, Passage, Split, TokenSequence

CONFIGS = Path(__file__).parents[2] / "configs"


class Words:
    """A tokenizer with a token a character."""

    def encode(self, text, add_special_tokens):
        return [ord(letter) for letter in text]


class Trainings:
    def __init__(self, reached=0.95):
        self.seen, self.reached = {}, reached

    def run(self, name, sequences, items, *rest):
        self.seen[name] = Counter(
            example.token_ids for item in items for _, example in item.members
        )
        rows = [{"extraction": [0.0]}, {"extraction": [self.reached]}]
        return SimpleNamespace(epochs=rows, model=ModelRef(name, name))


def sequence(*ids):
    return TokenSequence(str(ids), "c", ids, "")


@pytest.fixture
def memorised(tmp_path, monkeypatch):
    def run(trainings, **memorise):
        config = IcuConfig(
            name="x",
            task={"prefix_tokens": 4, "n": 2, "max_tokens": 8},
            memorise=memorise,
        )
        general = {split: () for split in Split}
        general[Split.RETAIN] = (Passage("a", "abcdefghijklmnop", Split.RETAIN, "d"),)
        general[Split.FINAL] = (Passage("b", "never seen while training", Split.FINAL, "d"),)
        data = IcuData((sequence(1),), (sequence(2),), (sequence(3),), (sequence(4),), general)
        monkeypatch.setattr(stages, "_trainings", lambda *_: trainings)
        machine = SimpleNamespace(base=ModelRef("base", "base"), tokenizer=Words())
        run_dir = RunDir.open(tmp_path / "run", {}, resume=False)
        stages.memorise_stage(config, data, run_dir, machine, None)
        return trainings.seen

    return run


def test_what_must_be_known_is_met_often_and_the_rest_once(memorised):
    seen = memorised(Trainings(), repeats=3, rehearse=9)
    beside = {(4,): 3, (2,): 1, tuple(b"abcdefgh"): 1, tuple(b"ijklmnop"): 1}
    assert seen["memorised"] == {(1,): 3, **beside}
    assert seen["control"] == beside  # it never saw the forget sequence


def test_nothing_is_rehearsed_where_it_is_switched_off(memorised):
    assert memorised(Trainings(), rehearse=0, control=False) == {
        "memorised": {(1,): 4, (4,): 4, (2,): 1}
    }


def test_a_model_that_did_not_memorise_ends_the_run(memorised):
    with pytest.raises(InputError, match=r"mean EL_2 is 0.300 .* expected memorise.least 0.8"):
        memorised(Trainings(reached=0.3))


@pytest.mark.parametrize("missing", ["search", "final"])
def test_general_text_without_a_split_that_is_read_is_named(monkeypatch, missing):
    shares = {split: 1.0 for split in ("retain", "search", "final") if split != missing}
    source = {"source": "builtin:practical", "splits": shares}
    config = IcuConfig(name="x", task={"general": [source]})
    distinct = iter(range(4))

    def some(*_):
        return [sequence(*range(100 * (first := next(distinct)), 100 * first + 100))]

    monkeypatch.setattr("rnr_dist.icu.data.load_sequences", some)
    with pytest.raises(InputError, match=f"task.general: holds no text in the split {missing}"):
        load_icu_data(config, Words())


@pytest.mark.parametrize("name", ["icu", "icu_small", "icu_table"])
def test_our_configs_have_text_to_rehearse_to_choose_by_and_to_report(name):
    config = load_any_config(CONFIGS / f"{name}.yaml", [])
    found = {passage.split for source in config.task.general for passage in load_passages(source)}
    assert {Split.RETAIN, Split.SEARCH, Split.FINAL} <= found
