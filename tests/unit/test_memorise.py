"""What memorising goes over, and what of the general text is read when; the training is a fake."""

from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from rnr_dist.config.file import load_config
from rnr_dist.config.schema import Config
from rnr_dist.data.sources import load_passages
from rnr_dist.errors import InputError
from rnr_dist.icu import stage as stages
from rnr_dist.measures.memorisation import Counting
from rnr_dist.run.directory import RunDir, read
from rnr_dist.tasks.extraction import Extraction
from rnr_dist.types import ModelRef, NamedModel, Passage, Split, TokenSequence

CONFIGS = Path(__file__).parents[2] / "configs"


class Words:
    """A tokenizer with a token a character."""

    def encode(self, text, add_special_tokens=True):
        return [ord(letter) for letter in text]


class Trained:
    """Notes what each model was trained on; every training reaches an EL of `reached`."""

    def __init__(self, reached=0.95):
        self.seen, self.reached, self.epochs = {}, reached, {}

    def __call__(self, trainings, name, items, training, model, plan):
        self.seen[name] = Counter(
            example.token_ids for item in items for _, example in item.members
        )
        self.epochs[name] = plan.ending.epochs
        rows = [{"extraction": [0.0]}, {"extraction": [self.reached]}]
        return SimpleNamespace(epochs=rows, model=ModelRef(name, name))


def sequence(*ids):
    return TokenSequence(str(ids), "c", ids, "", 4)


@pytest.fixture
def memorised(tmp_path, monkeypatch):
    def run(trained, **memorise):
        config = Config(name="x", task={"name": "extraction"}, memorise=memorise)
        general = {split: () for split in Split}
        general[Split.RETAIN] = (Passage("a", "abcdefghijklmnop", Split.RETAIN, "d"),)
        general[Split.FINAL] = (Passage("b", "never seen while training", Split.FINAL, "d"),)
        task = SimpleNamespace(
            gives={"sequences"},
            forget=(sequence(1),),
            pool=(sequence(2),),
            tuning=(sequence(4),),
            general=general,
            counting=Counting(2),
            max_tokens=8,
        )
        monkeypatch.setattr(stages, "train_by_epochs", trained)
        bench = SimpleNamespace(config=config, base=ModelRef("base", "base"), tokenizer=Words())
        run_dir = RunDir.open(tmp_path / "run", {}, resume=False)
        stages.memorise_stage(bench, task, run_dir)
        found = read(run_dir.path / "memorise" / "models.json", list[NamedModel])
        return trained.seen, {one.name: one.kind for one in found}

    return run


def test_what_must_be_known_is_met_often_and_the_rest_once(memorised):
    trained = Trained()
    seen, kinds = memorised(trained, repeats=3, rehearse=9)
    beside = {(4,): 3, (2,): 1, tuple(b"abcdefgh"): 1, tuple(b"ijklmnop"): 1}
    assert seen["memorised"] == {(1,): 3, **beside}
    assert seen["control"] == beside  # it never saw the forget sequence
    assert kinds == {"base": "other", "memorised": "reference", "control": "control"}
    assert trained.epochs == {"memorised": 12, "control": 1}  # as many as memorising took


def test_nothing_is_rehearsed_where_it_is_switched_off(memorised):
    seen, _ = memorised(Trained(), rehearse=0, control=False)
    assert seen == {"memorised": {(1,): 4, (4,): 4, (2,): 1}}


def test_where_nothing_is_memorised_the_base_is_what_others_are_compared_with(memorised):
    assert memorised(Trained(), enabled=False) == ({}, {"base": "reference"})


def test_a_model_that_did_not_memorise_ends_the_run(memorised):
    with pytest.raises(InputError, match=r"mean EL_2 is 0.300 .* expected memorise.least 0.8"):
        memorised(Trained(reached=0.3))


@pytest.mark.parametrize("missing", ["search", "final"])
def test_general_text_without_a_split_that_is_read_is_named(missing):
    shares = {split: 1.0 for split in ("retain", "search", "final") if split != missing}
    source = {"source": "builtin:practical", "splits": shares}
    config = Config(name="x", task={"name": "extraction", "general": [source]})
    with pytest.raises(InputError, match=f"task.general: holds no text in the split {missing}"):
        Extraction(config)


@pytest.mark.parametrize("name", ["icu", "icu_small", "icu_table"])
def test_our_configs_have_text_to_rehearse_to_choose_by_and_to_report(name):
    config = load_config(CONFIGS / f"{name}.yaml", [])
    found = {passage.split for source in config.task.general for passage in load_passages(source)}
    assert {Split.RETAIN, Split.SEARCH, Split.FINAL} <= found
