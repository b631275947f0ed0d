"""`rnr icu` through the command: bad input is one sentence and exit code 2, before a model runs."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from rnr_dist.commands.cli import app, guarded
from rnr_dist.config.file import validate
from rnr_dist.measures.results import Results, Row
from rnr_dist.measures.sequence_rows import EL_T0
from rnr_dist.run.directory import RunDir, read_json, write, write_json
from rnr_dist.types import NamedModel, Split
from rnr_dist.weights.checkpoints import keep_base, resolve_model
from rnr_dist.weights.composition import save_adapter

WORDS = [f"word{n}" for n in range(400)]


def text(start, count=40):
    return " ".join(WORDS[(start + n) % len(WORDS)] for n in range(count))


def config(**changed):
    task = {
        "name": "extraction",
        "forget": {"source": "forget.csv"},
        "pool": {"source": "builtin:records", "count": 3},
        "unseen": {"source": "builtin:records", "first": 100, "count": 2},
        "tuning": {"source": "builtin:records", "first": 200, "count": 1},
        "prefix_tokens": 20,
        "max_tokens": 40,
    }
    return {"name": "small", "engines": {"count": 1}, "task": task, **changed}


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys):
    """Run `rnr icu` on these files; returns its one sentence. Nothing may have been made."""
    monkeypatch.chdir(tmp_path)

    def sentence(content, forget=None):
        (tmp_path / "forget.csv").write_bytes(
            forget if forget is not None else f"doc_id,corpus,text\n1,web,{text(0)}\n".encode()
        )
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(content))
        before = sorted(tmp_path.rglob("*"))
        assert guarded(lambda: app(["icu", "config.yaml"], standalone_mode=False)) == 2
        [line] = capsys.readouterr().err.splitlines()
        assert sorted(tmp_path.rglob("*")) == before
        return line

    return sentence


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("doc_id,corpus,words\n1,web,hello\n", "row 1: has no `text`"),
        (f"doc_id,corpus,text\n1,web,{text(0)}\n2,web,{text(0)}\n", "is the same sequence as"),
        (f"doc_id,corpus,text\n1,web,{text(0)}\n2,web,one two\n", "expected more than task.prefix"),
        (f"doc_id,corpus,text\n1,web,{text(0)}\n2,web,\n", "row 2"),
    ],
)
def test_rows_of_the_forget_set_are_named(refused, rows, said):
    line = refused(config(), rows.encode())
    assert "forget.csv" in line and said in line


def test_a_file_that_is_not_utf8_is_named(refused):
    line = refused(config(), b"doc_id,corpus,text\n1,web,\xff\xfe\n")
    assert "forget.csv" in line and "UTF-8" in line


def test_a_long_sequence_is_refused_where_it_may_not_be_cut(refused):
    content = config()
    content["task"]["forget"]["cut"] = False
    assert "expected at most task.max_tokens 40" in refused(content)


def test_a_pool_smaller_than_k_is_refused(refused):
    line = refused(config(pairing={"k": 4}))
    assert "task.pool: found 3 sequences, expected at least pairing.k 4" in line


def test_a_pool_that_exclusion_leaves_nothing_of_is_refused_before_memorising(refused, tmp_path):
    content = config()
    content["task"]["forget"]["count"] = 1
    content["task"]["pool"] = {"source": "pool.jsonl"}
    # Another beginning, the same words afterwards.
    shared = "quite another start " + text(3)
    (tmp_path / "pool.jsonl").write_text(json.dumps({"text": shared}) + "\n")
    assert "0 of 1 pool sequences are left" in refused(content)


def test_a_missing_scorer_is_refused(refused, tmp_path):
    line = refused(config(refinement={"scorer": str(tmp_path / "nowhere")}))
    assert "refinement.scorer" in line and "nowhere" in line


@pytest.mark.parametrize("name", ["icu", "kumpr", "memorised", "control"])
def test_another_row_may_not_take_a_name_that_is_taken(refused, name):
    line = refused(config(evaluate={"others": {name: "embedded:smollm2-135m-instruct"}}))
    assert f"evaluate.others: found the name {name!r}, expected none of base, " in line


@pytest.mark.parametrize("name", ["../up", "", ".hidden"])
def test_another_row_may_not_take_a_name_that_no_file_has(refused, name):
    line = refused(config(evaluate={"others": {name: "embedded:smollm2-135m-instruct"}}))
    assert f"others: found the name {name!r}, expected letters, digits, dots" in line


def test_another_model_is_refused_where_its_tokens_leave_nothing_to_count(
    refused, tmp_path, tiny_llama, tiny_tokenizer, capsys
):
    """Another vocabulary is fine: texts are encoded anew. Here each word is a token, too few."""
    tiny_llama(tmp_path / "opt")
    capsys.readouterr()  # transformers' own progress bars
    line = refused(config(evaluate={"others": {"opt": str(tmp_path / "opt")}}))
    assert "evaluate.others.opt: found no tokenizer" in line
    tiny_tokenizer(tmp_path / "opt", 64)
    line = refused(config(evaluate={"others": {"opt": str(tmp_path / "opt")}}))
    assert "evaluate.others.opt: 'word0 word1" in line
    assert "tokens after its prefix" in line and "expected at least task.n 10" in line


def test_another_model_that_is_not_there_is_refused(refused):
    line = refused(config(evaluate={"others": {"opt": "./nowhere"}}))
    assert "evaluate.others.opt: ./nowhere: no such folder" in line


def test_a_sweep_over_unknown_keys_is_refused(refused):
    line = refused(config(sweep={"over": {"objective.alpha": [1]}}))
    assert "sweep" in line and "objective" in line and "config.yaml" in line


@pytest.mark.parametrize("command", ["sweep", "icu"])
def test_stages_of_the_other_picture_are_refused(tmp_path, monkeypatch, capsys, command):
    monkeypatch.chdir(tmp_path)
    toxic = Path(__file__).parents[2] / "configs" / "demo.yaml"
    assert guarded(lambda: app([command, str(toxic)], standalone_mode=False)) == 2
    assert (
        f"demo: the recipe reveal-and-release has no stage {command}; expected one"
        in capsys.readouterr().err
    )


def test_an_exported_card_says_what_was_measured(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = tmp_path / "model"
    factors = {"model.layers.0.self_attn.q_proj": (torch.randn(2, 4), torch.randn(4, 2))}
    adapter = save_adapter(
        tmp_path / "lora", factors, alpha=2, base=str(model), trained_on="t", side="forget"
    )
    model.mkdir()
    (model / "config.json").write_text('{"model_type": "llama"}')
    save_file(
        {"model.layers.0.self_attn.q_proj.weight": torch.zeros(4, 4)}, model / "model.safetensors"
    )
    run, known = tmp_path / "run", resolve_model(str(model))
    RunDir.open(run, validate(config(), "").content(), resume=False)
    keep_base(run, known)
    write(run / "memorise" / "models.json", [NamedModel("memorised", "reference", known)])
    result = known.plus(1, adapter)
    write(run / "icu" / "models.json", [NamedModel("icu", "step", result)])
    rows = tuple(
        Row(name, kind, model.digest, Split.FINAL, {EL_T0.name: EL_T0.mean(values)})
        for name, kind, model, values in (
            ("memorised", "reference", known, [1, 1, 0.5]),
            ("icu", "step", result, [0.25, 0.75, 0.5]),
        )
    )
    write(run / "evaluate" / "results.json", Results((EL_T0,), rows, "memorised"))
    app(["export", "run", "--adapter", "out"], standalone_mode=False)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "iterative contrastive unlearning (ICU)" in card
    [row] = [line for line in card.splitlines() if line.startswith("| extraction/el")]
    assert row.replace("\\", "").startswith("| extraction/el_t0 | 0.8333 | 0.5 |")
    assert row.endswith("| final | 3 | 3 |")
    # Results that a newer version wrote are not guessed at.
    path = run / "evaluate" / "results.json"
    write_json(path, {**read_json(path), "schema_version": 3})
    assert guarded(lambda: app(["export", "run", "--adapter", "x"], standalone_mode=False)) == 2
    assert f"{path}: found schema_version 3, expected 2" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
