"""The command line: bad input is one sentence and exit code 2, before anything is made."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import rnr_dist.commands.result
import rnr_dist.recipes.pipeline
from rnr_dist.commands.cli import guarded
from rnr_dist.run.directory import LAYOUT_NOTE, RunDir, read_json, write, write_json
from rnr_dist.types import NamedModel, Split
from rnr_dist.weights.checkpoints import keep_base, resolve_model
from rnr_dist.weights.composition import save_adapter
from rnr_dist.weights.compression import compress
from tests.unit.command_fakes import CONFIG, lines, rnr

ROOT = Path(__file__).parents[2]


def test_a_full_disk_is_named_in_one_sentence(capsys):
    """/dev/full refuses every byte, as a full disk does."""
    assert guarded(lambda: Path("/dev/full").write_text("x")) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("rnr: a disk: no space is left")
    with pytest.raises(FileNotFoundError):
        guarded(lambda: Path("nowhere/to/be/found").read_text())


# What a person can get wrong


def written(name, content):
    def write(place):
        (place / name).write_text(content)

    return write


def nothing(place):
    pass


ROWS = [json.dumps({"text": text}) for text in lines(30, 9)]
JSONL = "task.challenging.source=rows.jsonl"
BAD_INPUTS = {
    "unknown key": (nothing, ["reveal.budgte=3"], ["reveal.budgte", "did you mean budget?"]),
    "wrong type": (nothing, ["reveal.budget=many"], ["reveal.budget", "'many'", "integer"]),
    "out of range": (nothing, ["reveal.alpha=2"], ["reveal.alpha", "2", "less than or equal to 1"]),
    "an embedder that pairs nothing here": (
        nothing,
        ["pairing.embedder=./other"],
        ["pairing.embedder: found ./other", "pairs by reveal.embedder", "expected embedded:minilm"],
    ),
    "no YAML value": (nothing, ["reveal.alpha=[2"], ["--set reveal.alpha=[2", "no YAML"]),
    "missing data file": (
        nothing,
        ["task.challenging.source=nowhere.txt"],
        ["nowhere.txt", "no such file"],
    ),
    "row that is no JSON": (
        written("rows.jsonl", "\n".join([*ROWS[:4], "{'text': 1}", *ROWS[4:]])),
        [JSONL],
        ["rows.jsonl, row 5", "no JSON"],
    ),
    "row without its field": (
        written("rows.jsonl", "\n".join([*ROWS[:2], '{"txet": "a"}'])),
        [JSONL],
        ["rows.jsonl, row 3", "no `text`", "txet"],
    ),
    "row with an empty text": (
        written("rows.jsonl", '{"text": "  "}'),
        [JSONL],
        ["rows.jsonl, row 1", "empty"],
    ),
    "empty data set": (
        written("rows.jsonl", "\n"),
        [JSONL],
        ["rows.jsonl", "found no text"],
    ),
    "split without a text": (
        written("rows.jsonl", "\n".join(ROWS[:2])),
        [JSONL],
        ["rows.jsonl", "splits.", "got none of 2 texts"],
    ),
    "split without a share": (
        nothing,
        ["task.ordinary.splits={final: 1}"],
        ["task.ordinary", "split retain"],
    ),
    "unknown oracle": (
        nothing,
        ["task.oracle=prof"],
        [
            "oracle prof: unknown",
            "profanity, lexicon, hf:MODEL, detoxify, rubric, entities, perspective, tests, or "
            "package.module:Class",
        ],
    ),
    "folder that is no model": (
        lambda place: (place / "photos").mkdir(),
        ["model=./photos"],
        ["photos", "found nothing", "config.json"],
    ),
    "layer that the model has not": (
        nothing,
        ["release.retain.target_modules=[q_proj, query]"],
        ["release.retain.target_modules", "'query'", "k_proj, lm_head, o_proj, q_proj"],
    ),
    "decoder layer that the model has not": (
        nothing,
        ["release.retain.layers=[0, 99]"],
        ["release.retain.layers", "99 is no decoder layer"],
    ),
    "missing model": (nothing, ["model=./nowhere"], ["./nowhere", "no such folder"]),
    "unknown embedded model": (nothing, ["model=embedded:gpt"], ["embedded:gpt", "smollm2"]),
    "missing embedder": (nothing, ["reveal.embedder=./none"], ["./none", "no such folder"]),
    "adapters beside the base on CPUs": (
        nothing,
        ["engines.weights=lora"],
        ["engines.weights", "found lora on CPUs", "expected reload"],
    ),
    "model that no backend serves": (
        written("model/config.json", '{"architectures": ["BertForMaskedLM"]}'),
        [],
        ["model: found", "BertForMaskedLM, which no backend", "expected a causal language model"],
    ),
    "vllm for what it does not serve": (
        written("model/config.json", '{"architectures": ["GPTNeoForCausalLM"]}'),
        ["engines.backend=vllm"],
        [
            "engines.backend: found vllm",
            "does not serve GPTNeoForCausalLM",
            "expected transformers",
        ],
    ),
    "more generators than cores": (
        nothing,
        ["engines.count=3"],
        ["engines.count", "found 3", "2 core(s)", "at most 2"],
    ),
    "more generators than memory": (
        nothing,
        ["engines.count=2", "engines.kv_cache_gib=40"],
        ["engines.count", "GiB free", "at most 1"],
    ),
}


@pytest.mark.parametrize("command", ["run", "check"])
@pytest.mark.parametrize("case", BAD_INPUTS)
def test_bad_input_is_one_sentence_before_anything_is_made(place, refused, command, case):
    prepare, overrides, expected = BAD_INPUTS[case]
    prepare(place)
    options = [word for override in overrides for word in ("--set", override)]
    sentence = refused(command, "config.yaml", *options)
    for part in expected:
        assert part in sentence


@pytest.mark.parametrize("command", ["run", "reveal", "release", "evaluate", "check"])
def test_a_config_that_cannot_be_read_is_named(place, refused, command):
    assert refused(command, "nowhere.yaml").startswith("nowhere.yaml: cannot be read (No such file")
    assert refused(command, "model/").startswith("model: no config of that name ships (there are")
    folder = place / "model"
    assert refused(command, folder).startswith(f"{folder}: cannot be read (Is a directory)")


def test_a_run_directory_of_another_config_is_left_alone(place, refused, monkeypatch):
    monkeypatch.setattr(rnr_dist.recipes.pipeline, "run_pipeline", lambda *arguments: None)
    assert rnr("run", "config.yaml", "--run", "mine") == 0
    RunDir(place / "mine").finish("reveal", "of that config")
    other = ("--set", "seed=3")
    for more in ((), other):
        assert "mine: holds a run already" in refused("run", "config.yaml", *more, "--run", "mine")
    told = refused("run", "config.yaml", *other, "--resume", "mine")
    assert "mine: this run directory belongs to another config (differs in seed)" in told
    assert rnr("run", "config.yaml", "--resume", "mine") == 0


def test_a_run_of_another_layout_says_which_version_reads_it(place, refused):
    run = place / "mine"
    write_json(run / "config.json", CONFIG)
    (run / "release").mkdir()
    (run / "release" / "models.json").write_text("{}")
    for command in (
        ("run", "config.yaml", "--resume", "mine"),
        ("export", "mine", "--adapter", "out"),
        ("compare", "mine", "So I"),
    ):
        told = refused(*command)
        assert "mine: found a run of layout 1, expected 2; rnr_dist 0.1 reads it" in told
    write_json(run / LAYOUT_NOTE, {"layout": 9})
    told = refused("run", "config.yaml", "--resume", "mine")
    assert "mine: found a run of layout 9, expected 2; a newer rnr_dist reads it" in told


def test_folders_that_are_no_run_are_named(place, refused):
    (place / "photos").mkdir()
    (place / "photos" / "cat.png").touch()
    assert "photos: not empty and no run" in refused("run", "config.yaml", "--run", "photos")
    assert refused("run", "config.yaml", "--resume", "photos").startswith("--resume photos: no run")
    both = refused("run", "config.yaml", "--run", "a", "--resume", "b")
    assert both.startswith("--run and --resume: found both")
    assert refused("compare", "photos", "So I").startswith("photos: no released model")
    assert refused("export", "photos", "--merged", "out").startswith("photos: no released model")
    assert refused("export", "photos").startswith("export: found neither --adapter nor --merged")
    rank = refused("export", "photos", "--merged", "out", "--rank", "4")
    assert rank.startswith("--rank: found 4 without --adapter")
    assert "mlflow.db: not there" in refused("ui", "--runs", "photos")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["runn"], "No such command 'runn'"),
        (["run"], "Missing argument 'CONFIG'"),
        (["run", "config.yaml", "more"], "unexpected extra argument"),
        (["run", "config.yaml", "--budget", "3"], "No such option: --budget"),
        (["compare", "model", "So I", "--n", "0"], "'--n'"),
        (["compare", "model", "So I", "--n", "few"], "'--n'"),
    ],
)
def test_bad_usage_is_one_sentence_too(refused, arguments, expected):
    assert expected in refused(*arguments)


# What goes well, or is interrupted


def test_export_writes_an_adapter_of_the_asked_rank_and_says_what_it_costs(place, capsys):
    draw = np.random.default_rng(0)
    down, up = torch.tensor(draw.normal(size=(2, 2, 8))).float()
    factors = {"model.layers.0.self_attn.q_proj": (down, up.T.contiguous())}
    adapter = save_adapter(place / "lora", factors, alpha=2, base="", trained_on="t", side="forget")
    base = resolve_model("./model")
    RunDir.open(place / "done", CONFIG, resume=False)
    keep_base(place / "done", base)
    models = [
        NamedModel("base", "reference", base),
        NamedModel("-f0", "step", base.plus(-1, adapter)),
    ]
    write(place / "done" / "release" / "models.json", models)
    assert rnr("export", "done", "--adapter", "out", "--rank", "1") == 0
    captured = capsys.readouterr()
    assert captured.out == "out\n"
    _, truncation = compress(factors, 1)
    assert f"rank 1: relative Frobenius error {truncation.error:.3g}" in captured.err
    assert f"Frobenius error {truncation.error:.3g}" in (place / "out" / "README.md").read_text()
    assert rnr("export", "done", "--adapter", "again", "--rank", "0") == 2
    assert "rnr: again: found rank 0; expected 1 to 512" in capsys.readouterr().err


def test_check_lists_what_a_run_would_use(place, capsys):
    assert rnr("check", "config.yaml") == 0
    out = capsys.readouterr().out
    assert "model   ./model" in out
    assert "challenging contexts in reveal" in out
    assert "outside passages in final" in out
    assert "backend vllm: vLLM serves LlamaForCausalLM" in out
    assert not (place / "runs").exists()
    # The place's model has not all layers that the methods train, which R&R need not know.
    assert "methods can't run: methods.rmu" in out and "expected some of 0 to 0" in out
    overrides = ["methods.run=[dpo]", "methods.dpo.training.target_modules=[q_proj]"]
    assert rnr("check", "config.yaml", *(p for one in overrides for p in ("--set", one))) == 0
    assert "methods dpo\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (
            [
                "methods.run=[pem_external]",
                "methods.external={source: nowhere.txt, splits: {train: 1}}",
            ],
            "nowhere.txt",
        ),
        (
            ["methods.run=[rmu]", "methods.rmu.training.objective.layer=99"],
            "methods.rmu.training.objective.layer",
        ),
    ],
)
def test_what_a_method_beside_needs_is_known_before_its_turn(place, capsys, overrides, told):
    training = "training.target_modules=[q_proj]"
    overrides = [*overrides, *(f"methods.{name}.{training}" for name in ("pem_external", "rmu"))]
    overrides.append("methods.rmu.training.layers=[0]")
    assert rnr("check", "config.yaml", *(p for one in overrides for p in ("--set", one))) == 0
    assert "methods can't run: " in (out := capsys.readouterr().out) and told in out


def test_a_run_keeps_its_config_and_prints_its_directory(place, capsys, monkeypatch):
    calls = []
    monkeypatch.setattr(
        rnr_dist.recipes.pipeline, "run_pipeline", lambda *called: calls.append(called)
    )
    assert rnr("reveal", "config.yaml", "--set", "reveal.budget=9") == 0
    [(config, task, directory, until, *_)] = calls
    assert task.contexts(Split.TRAIN, "forget")
    assert (config.reveal.budget, until) == (9, "reveal")
    said = capsys.readouterr().out.splitlines()
    go_on = f"rnr run config.yaml --set reveal.budget=9 --resume {directory.path}"
    assert said == [f"Next: {go_on}", str(directory.path)]
    assert directory.path.parent == place / "runs"
    assert directory.path.name.startswith("small-")
    assert read_json(directory.path / "config.json")["reveal"]["budget"] == 9


def test_an_interrupted_run_says_how_to_go_on(place, capsys, monkeypatch):
    def interrupted(*arguments, **named):
        raise KeyboardInterrupt

    monkeypatch.setattr(rnr_dist.recipes.pipeline, "run_pipeline", interrupted)
    assert rnr("run", "config.yaml", "--run", "mine") == 130
    assert "rnr run config.yaml --resume mine" in " ".join(capsys.readouterr().err.split())
    overrides = ("--set", "reveal.budget=9", "--set", "name=my run")
    assert rnr("run", "config.yaml", *overrides, "--reread", "--resume", "mine") == 130
    again = "rnr run config.yaml --set reveal.budget=9 --set 'name=my run' --reread --resume mine"
    assert again in " ".join(capsys.readouterr().err.split())
    monkeypatch.setattr(rnr_dist.commands.result, "compare_models", interrupted)
    assert rnr("compare", "mine", "So I") == 130


def test_other_errors_are_not_swallowed(place, monkeypatch):
    def broken(*arguments):
        raise RuntimeError("a bug of ours")

    monkeypatch.setattr(rnr_dist.recipes.pipeline, "run_pipeline", broken)
    with pytest.raises(RuntimeError, match="a bug of ours"):
        rnr("run", "config.yaml")


# The process


def python(code, *arguments, cwd):
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


HEAVY = """
import sys
from rnr_dist.commands.cli import main
try:
    main()
finally:
    heavy = {"torch", "ray", "vllm", "mlflow", "transformers"} & set(sys.modules)
    print("loaded:", *sorted(heavy))
"""


@pytest.mark.parametrize("arguments", [[], ["--help"], ["run", "--help"]])
def test_help_loads_nothing_heavy(tmp_path, arguments):
    ended = python(HEAVY, *arguments, cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "Usage" in ended.stdout
    assert ended.stdout.splitlines()[-1] == "loaded:"


def test_bad_data_is_found_before_anything_heavy_is_loaded(place):
    (place / "challenging.txt").unlink()
    overrides = ["--set", "engines.kv_cache_gib=0.01", "--set", "engines.cpus_each=1"]
    ended = python(HEAVY, "run", "config.yaml", *overrides, cwd=place)
    assert ended.returncode == 2
    [line] = ended.stderr.splitlines()
    assert line.startswith("rnr: challenging.txt: found no such file")
    assert ended.stdout == "loaded:\n"
    assert not (place / "runs").exists()
