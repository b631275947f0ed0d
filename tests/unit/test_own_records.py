"""Records of one's own for ICU: no built-in ones stand in for them or choose a setting."""

from types import SimpleNamespace

import pytest

from rnr_dist.config.file import validate
from rnr_dist.errors import InputError
from rnr_dist.icu.tuning import Trials
from rnr_dist.tasks.extraction import SETS, Extraction
from rnr_dist.tasks.task import make_task

OWN = {key: {"source": f"{key}.jsonl"} for key in SETS}
GRID = {"icu": {"grid": [{"learning_rate": 1e-5}, {"learning_rate": 2e-5}]}}


def config(task, **more):
    return validate({"name": "own", "task": {"name": "extraction", **task}, **more}, "own.yaml")


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        (["forget"], "pool, unseen, tuning"),
        (["forget", "pool", "unseen"], "tuning"),
        (["unseen"], "forget, pool, tuning"),
    ],
)
def test_built_in_records_stand_in_for_none_of_one_s_own(given, missing):
    with pytest.raises(InputError) as refused:
        config({key: OWN[key] for key in given})
    assert str(refused.value) == (
        f"own.yaml: task: found {given[0]} from {given[0]}.jsonl, but no {missing}, for which "
        "built-in records would stand; expected all of forget, pool, unseen and tuning, of one kind"
    )


def test_all_four_or_none_of_one_s_own():
    assert config(OWN).task.tuning.source == "tuning.jsonl"
    assert config({}).task.pool.source == "builtin:records"
    assert config({"forget": {"count": 4}}).task.forget.count == 4
    mixed = {**OWN, "unseen": {"source": "builtin:records", "first": 600}}
    assert config(mixed).task.unseen.first == 600  # who says so means it


def test_nothing_is_chosen_on_records_that_nobody_was_taught(monkeypatch):
    known = {"memorise": {"enabled": False}, "methods": GRID}
    with pytest.raises(InputError) as refused:
        make_task(config({}, **known))
    assert str(refused.value) == (
        "task.tuning: found none beside memorise.enabled false, so the 2 places of "
        "methods.icu.grid would be tried on built-in records, which the model never learnt; "
        "expected sequences that it knows, or a grid of one place"
    )

    class Past(Exception):
        pass

    def begun(*_):
        raise Past

    monkeypatch.setattr("rnr_dist.tasks.extraction.tokenizer_of", begun)
    for task, more in [
        ({}, {"methods": GRID}),
        ({}, {**known, "methods": {"icu": {"grid": [{}]}}}),
        ({"tuning": {"first": 700, "count": 8}}, known),
        (OWN, known),
    ]:
        with pytest.raises(Past):
            Extraction(config(task, **more))


def trials(folder, epochs, memorise=False):
    """Places of a grid whose trainings end after so many epochs."""
    loaded = config(OWN, methods=GRID, memorise={"enabled": memorise})
    rows = [{"violation": 0.0, "extraction": [0.1], "memorisation": [0.2]}] * epochs
    own = SimpleNamespace(
        name="icu",
        bench=SimpleNamespace(config=loaded),
        task=SimpleNamespace(tuning=("a", "b")),
        forget=lambda label, sequences, training: SimpleNamespace(
            epochs=rows, best=epochs - 1, model=None
        ),
    )
    return Trials(own, loaded.methods.of("icu"), folder, 1)


def test_tuning_sequences_that_the_model_does_not_know_choose_nothing(tmp_path):
    one = trials(tmp_path, epochs=1)
    for place in one.settings.grid:
        one.finish(place)
    with pytest.raises(InputError) as refused:
        one.choose()
    assert str(refused.value).startswith(
        "task.tuning: all 2 sequences count as forgotten before the first epoch"
    )


@pytest.mark.parametrize("memorise", [False, True])
def test_whoever_memorises_nothing_is_told_what_the_choice_rests_on(
    tmp_path, monkeypatch, capsys, memorise
):
    kept = {"perplexity": 3.0, "pool": 1.0, "auc": 0.5}
    monkeypatch.setattr(Trials, "_kept", lambda self, model: kept)
    one = trials(tmp_path, 3, memorise)
    lora = SimpleNamespace(parameters="lora")
    monkeypatch.setattr(type(one.settings), "trained_with", lambda *_: lora)
    for place in one.settings.grid:
        one.finish(place)
    assert one.choose()["chosen"] == one.settings.grid[0]
    told = "icu: chosen on task.tuning as it was given, nothing memorised"
    printed = capsys.readouterr()
    assert (told in printed.out + printed.err) is not memorise
