"""Configs of the paper's own experiments: each reads data as it is published and fits its GPU."""

import json
import random
from pathlib import Path

import pytest

from rnr_dist.commands.check import Described, check_config
from rnr_dist.config.file import load_config
from rnr_dist.sandbox.layers import strongest

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs" / "paper").glob("*.yaml"))
GPU = ROOT / "configs" / "clusters" / "gpus_1.yaml"
MODELS = Path(__file__).parents[1] / "data" / "models"


def words(seed, count=12):
    """A text that no other is a near-copy of."""
    draw = random.Random(seed)
    return " ".join("".join(draw.choices("abcdefghijklmnop", k=7)) for _ in range(count))


def solved(number):
    return {
        "task_id": number,
        "text": f"Write a function: {words(number)}.",
        "code": f"def f{number}(x):\n    return x",
        "test_list": [f"assert f{number}(1) == 1"],
    }


def asked(number):
    names = {"Person": "Ann", "Organization": "Mu", "Concept": "joy", "Location": "Rye"}
    turns = [f"Text: {words(number)} Ann Mu joy Rye May", "I've read this text."]
    for kind, name in {**names, "Date": "May"}.items():
        turns += [f"What describes {kind} in the text?", json.dumps([name])]
    said = [{"from": "gpt" if at % 2 else "human", "value": turn} for at, turn in enumerate(turns)]
    return {"id": str(number), "conversations": said}


@pytest.fixture
def published(tmp_path, monkeypatch):
    """RNR_DATA_DIR with a few rows of each set, in the form in which it is published."""
    reckoned = [{"question": words(-n), "answer": f"It is.\n#### {n}"} for n in range(1, 200)]
    plus = {
        "task_id": "Mbpp/20",
        "prompt": '"""\nWrite a function to halve a number.\nassert halve(2) == 1\n"""\n',
        "entry_point": "halve",
        "canonical_solution": "\ndef halve(x):\n    return x / 2\n",
        "base_input": [[2], [5]],
        "plus_input": [[-3]],
        "atol": 1e-6,
    }
    numbers = (*range(11, 16), *range(511, 529), *range(601, 631))
    rows = {
        "mbpp/mbpp.jsonl": [solved(number) for number in numbers],
        "evalplus/MbppPlus.jsonl": [plus],
        "gsm8k/train.jsonl": reckoned[:150],
        "gsm8k/test.jsonl": reckoned[150:],
    }
    for name, content in rows.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        text = "".join(json.dumps(row) + "\n" for row in content)
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "pile_ner").mkdir()
    texts = json.dumps([asked(number) for number in range(150)])
    (tmp_path / "pile_ner" / "train.json").write_text(texts, encoding="utf-8")
    monkeypatch.setenv("RNR_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("RNR_CACHE_DIR", str(tmp_path / "cache"))


def test_both_tasks_have_both_models():
    models = ("llama3_8b", "mistral_7b")
    assert {path.stem for path in CONFIGS} == {
        f"{task}_{model}" for task in ("coding", "ner") for model in models
    }


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_each_reads_its_data_and_fits_its_gpu(path, published):
    model = MODELS / path.stem.partition("_")[2] / "config.json"
    sandbox = [f"task.sandbox.layer={strongest().name}"] if "coding" in path.stem else []
    told = "\n".join(check_config(path, sandbox, Described(GPU, model)))
    assert "one GPU serves both" in told
    assert "training worker(s) 1 x 1 GPU" in told
    config = load_config(path, sandbox)
    assert config.compared[-4:] == ["pem_external", "ext_sub", "dpo", "rmu"]  # Tables 3, 4, 12, 13
    rounds = {"coding": 1, "ner": 3}[path.stem.partition("_")[0]]  # 4.5 has one, 4.4 three
    assert config.release.iterations == rounds


def test_a_missing_set_is_named(published, tmp_path):
    (tmp_path / "gsm8k" / "train.jsonl").unlink()
    model = Described(GPU, MODELS / "llama3_8b" / "config.json")
    sandbox = [f"task.sandbox.layer={strongest().name}"]
    with pytest.raises(ValueError, match=r"gsm8k/train\.jsonl: found no such file"):
        check_config(ROOT / "configs" / "paper" / "coding_llama3_8b.yaml", sandbox, model)
