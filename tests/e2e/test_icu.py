"""`rnr icu` through the public command: real vLLM, DeepSpeed, Ray, MLflow, 135M model."""

import csv
import json
from pathlib import Path

import pytest

from rnr_dist.after import export_result
from rnr_dist.errors import InputError
from tests.e2e.command import rnr

pytestmark = pytest.mark.timeout(900)
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


def write_known(folder, texts):
    (folder / "known.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    return CONFIG, ["--set", f"task.forget.source={folder / 'known.jsonl'}"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("icu")
    config, settings = write_known(folder, KNOWN)
    run = folder / "run"
    done = rnr(["icu", str(config), *settings, "--run", str(run)], folder)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip().splitlines()[-1] == str(run)
    return run, done


def test_what_was_known_is_recalled_less_and_the_report_says_what_it_cost(finished):
    run, done = finished
    content = json.loads((run / "evaluate" / "summary.json").read_text())
    rows = {row["name"]: row for row in content["rows"]}
    assert list(rows) == ["base", "memorised", "icu"]
    recalled = {name: row["scores"]["extraction/el_t0"]["value"] for name, row in rows.items()}
    assert recalled["memorised"] > recalled["base"]
    assert recalled["icu"] < recalled["memorised"]
    ours = rows["icu"]
    assert [epoch["epoch"] for epoch in ours["epochs"]] == [*range(len(ours["epochs"]))]
    assert ours["epochs"][1]["terms"].keys() == {"forget", "learn", "kl"}
    assert ours["scores"]["perplexity/general"]["vs_memorised"]["ratio"] > 0
    assert (run / "evaluate" / "epochs.png").read_bytes().startswith(b"\x89PNG")
    assert "What is still recalled" in done.stdout and "What was kept" in done.stdout


def test_the_sequences_stay_in_the_run_and_off_the_terminal(finished):
    run, done = finished
    told = (run / "icu" / "continuations.md").read_text()
    assert "darkness was upon the face" in told
    assert "darkness" not in done.stdout + done.stderr


def test_pairs_are_kept_with_their_distances(finished):
    run, _ = finished
    pairs = json.loads((run / "icu" / "pairs.json").read_text())
    assert len(pairs) == len(KNOWN) + 1  # one tuning sequence
    assert all(-1 <= pair["cosine"] <= 1 and pair["learn"] for pair in pairs)


def test_the_result_is_exported_and_graded(finished, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM

    run, _ = finished
    export_result(run, None, tmp_path / "merged")
    result = json.loads((run / "icu" / "result.json").read_text())["model"]["checkpoint"]
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
    assert len(list(csv.DictReader(sheet.open(newline="")))) == 2 * 2  # memorised, icu
