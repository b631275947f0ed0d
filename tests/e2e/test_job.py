"""`rnr icu` as a Ray job on a local head node: real vLLM, DeepSpeed, MLflow, 135M model.

`ray job submit` runs the same as the command, so one run shows both.
"""

import csv
import json
import math
import sys
from pathlib import Path

import pytest

from rnr_dist.commands.result import export_result
from rnr_dist.errors import InputError
from rnr_dist.run.directory import read
from rnr_dist.types import NamedModel
from rnr_dist.weights.checkpoints import resolve_model
from tests.e2e.command import ROOT, TINY, rnr
from tests.nodes import Nodes, job_environment

pytestmark = pytest.mark.timeout(1200)

CONFIG = Path(__file__).with_name("icu_tiny.yaml")
# Public texts that a model of web text has met more than once.
KNOWN = [
    "In the beginning God created the heaven and the earth. And the earth was without form, and "
    "void; and darkness was upon the face of the deep. And the Spirit of God moved upon the face",
    "Four score and seven years ago our fathers brought forth on this continent, a new nation, "
    "conceived in Liberty, and dedicated to the proposition that all men are created equal.",
    "We hold these truths to be self-evident, that all men are created equal, that they are "
    "endowed by their Creator with certain unalienable Rights, that among these are Life, Liberty",
    "Lorem ipsum dolor sit amet, consectetur adipiscing elit, sed do eiusmod tempor incididunt ut "
    "labore et dolore magna aliqua. Ut enim ad minim veniam, quis nostrud exercitation ullamco",
]


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """A Ray head node with slots for engines."""
    with Nodes(tmp_path_factory.mktemp("head")) as nodes:
        nodes.head(cpus=2, rnr_engine=1)
        nodes.wait_for_jobs()
        yield nodes


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """A checkpoint of another architecture with the same tokenizer; it knows nothing."""
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    folder = tmp_path_factory.mktemp("other") / "qwen2"
    base = resolve_model("embedded:smollm2-135m-instruct").checkpoint
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.save_pretrained(folder)
    shape = {"hidden_size": 128, "intermediate_size": 128, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    config = Qwen2Config(vocab_size=len(tokenizer), **shape, **heads)
    Qwen2ForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def finished(head, other, tmp_path_factory):
    """(run directory, all that the job told) of an ICU run on the cluster."""
    folder = tmp_path_factory.mktemp("icu")
    known, run = folder / "known.jsonl", folder / "run"
    known.write_text("".join(json.dumps({"text": text}) + "\n" for text in KNOWN))
    command = ["submit", "--working-dir", ROOT, "--runtime-env", job_environment(folder), "--"]
    command += [sys.executable, "jobs/rnr.py", "icu", CONFIG]
    command += ["--set", f"task.forget.source={known}", "--run", run]
    command += ["--set", f"evaluate.others.never-trained={other}"]
    done = head.job(*command)
    told = done.stdout + done.stderr
    assert done.returncode == 0, told[-6000:]
    return run, told


def test_what_was_known_is_recalled_less_and_the_report_says_what_it_cost(finished):
    run, told = finished
    content = json.loads((run / "summary.json").read_text())
    rows = {row["name"]: row for row in content["rows"]}
    assert list(rows) == ["base", "memorised", "icu", "never-trained"]
    # Another architecture, read by engines of its own: about as good as guessing.
    assert rows["never-trained"]["scores"]["pool/nll"]["value"] == pytest.approx(
        math.log(49_152), rel=0.1
    )
    recalled = {name: row["scores"]["extraction/el_t0"]["value"] for name, row in rows.items()}
    assert recalled["memorised"] > recalled["base"]
    assert recalled["icu"] < recalled["memorised"]
    epochs = content["details"]["curves"]["icu"]
    assert [epoch["epoch"] for epoch in epochs] == [*range(len(epochs))]
    assert epochs[1]["terms"].keys() == {"forget", "learn", "kl"}
    assert rows["icu"]["scores"]["perplexity/general"]["ratio"] > 0
    assert (run / "figures" / "epochs.png").read_bytes().startswith(b"\x89PNG")
    assert "What is still recalled" in told and "What was kept" in told


def test_the_sequences_stay_in_the_run_and_off_the_terminal(finished):
    run, told = finished
    kept = (run / "icu" / "continuations.md").read_text()
    assert "darkness was upon the face" in kept
    assert "darkness" not in told


def test_pairs_are_kept_with_their_distances(finished):
    run, _ = finished
    pairs = json.loads((run / "materials" / "pairs.json").read_text())["content"]
    assert len(pairs) == len(KNOWN) + 1  # one tuning sequence
    assert all(-1 <= pair["cosine"] <= 1 and pair["learn"] for pair in pairs)


def test_the_result_is_exported_and_graded(finished, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM

    run, _ = finished
    export_result(run, None, tmp_path / "merged")
    [unlearnt] = read(run / "icu" / "models.json", list[NamedModel])
    result = unlearnt.model.checkpoint
    one, other = (
        AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).state_dict()
        for path in (tmp_path / "merged", result)
    )
    assert all(torch.allclose(one[name], other[name], atol=1e-2) for name in one)
    assert "contrastive unlearning" in (tmp_path / "merged" / "README.md").read_text()
    with pytest.raises(InputError, match=r"no terms.*--merged"):
        export_result(run, tmp_path / "adapter", None)
    sheet = tmp_path / "sheet.csv"
    done = rnr(["grade", str(run), "--sheet", str(sheet), "--count", "2"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(list(csv.DictReader(sheet.open(newline="")))) == 2 * 3  # memorised, icu, the other


def test_cluster_without_engine_slots_is_refused(head, tmp_path):
    """Two engines on a node with one slot would wait for ever."""
    command = ["submit", "--working-dir", ROOT, "--"]
    command += [sys.executable, "jobs/rnr.py", "reveal", TINY, "--run", tmp_path / "run"]
    command += ["--set", "engines.count=2"]
    done = head.job(*command)
    assert done.returncode != 0
    assert "rnr_engine" in done.stdout + done.stderr
