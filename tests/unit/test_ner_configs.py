"""The configs of entities: the paper's experiment, key by key, and the twin that runs here."""

import json
from pathlib import Path

import pytest

from rnr_dist.commands.check import Described, check_config
from rnr_dist.config.file import load_config
from rnr_dist.tasks.task import make_task
from rnr_dist.types import Split
from tests.unit.test_marked import turns

ROOT = Path(__file__).parents[2]
PAPER = sorted((ROOT / "configs" / "paper").glob("ner_*.yaml"))
MODELS = Path(__file__).parents[1] / "data" / "models"
each = pytest.mark.parametrize("path", PAPER, ids=lambda path: path.stem)

LINES = [
    ("4.4: Person", "task.target", "Person"),
    ("4.4: the four others", "task.retained", ["Organization", "Concept", "Location", "Date"]),
    ("4.4: directly prompt", "reveal.prompts", [""]),
    ("4.4: diversity is not applicable", "reveal.alpha", 0),
    ("4.4: three iterations", "release.iterations", 3),
    ("A.2: the words", "task.asks.wording", "paper"),
    ("3.2: 90 %", "release.forget_share", 0.9),
    ("3.2: 95 %", "release.keep_share", 0.95),
    ("Table 3: DPO, RMU, Ext-Sub, PEM-external", "methods.run", None),
]


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A few texts in UniversalNER's form, as the training set has them."""
    monkeypatch.setenv("RNR_DATA_DIR", str(tmp_path))
    (tmp_path / "pile_ner").mkdir()
    kinds = ("person", "organization", "concept", "location", "date")
    rows = [
        turns(f"Text {n} of many.", *((kind, f'["Name {n}"]') for kind in kinds))
        for n in range(120)
    ]
    path = tmp_path / "pile_ner" / "train.json"
    path.write_text(json.dumps(rows), encoding="utf-8")


@each
@pytest.mark.parametrize(("place", "key", "value"), LINES, ids=[line[0] for line in LINES])
def test_the_paper_line_by_line(path, data, place, key, value):
    found = load_config(path)
    for part in key.split("."):
        found = getattr(found, part)
    if key == "methods.run":
        assert sorted(found) == ["dpo", "ext_sub", "pem_external", "rmu"]
    else:
        assert found == value


@each
def test_they_are_checked_against_a_cluster_without_a_hub(path, data):
    """Their weights are not here, and a gated model's tokenizer neither."""
    described = MODELS / path.stem.removeprefix("ner_") / "config.json"
    cluster = ROOT / "configs" / "clusters" / "gpus_1.yaml"
    told = "\n".join(check_config(path, [], Described(cluster, described)))
    assert "questions for Person in train" in told
    assert "methods pem_external, ext_sub, dpo, rmu" in told
    assert "time    in all about" in told
    assert {load_config(path).model for path in PAPER} == {
        "meta-llama/Meta-Llama-3-8B-Instruct",
        "mistralai/Mistral-7B-Instruct-v0.2",
    }


def test_the_twin_has_enough_to_tell_models_apart(monkeypatch):
    config = load_config(ROOT / "configs" / "ner_small.yaml", ["task.asks.chat=false"])
    task = make_task(config)
    named = {
        (one.split, one.group)
        for split in (Split.REVEAL, Split.TRAIN, Split.SEARCH, Split.DEV, Split.FINAL)
        for kind in ("forget", "retain")
        for one in task.contexts(split, kind)
        if one.reference != "[]"
    }
    assert len(named) == 25
    assert len(task.contexts(Split.DEV, "forget")) >= 60
    assert config.evaluate.split is Split.DEV  # its figures are those of defaults that were tuned
    assert task.lesson_count(True) >= 400
