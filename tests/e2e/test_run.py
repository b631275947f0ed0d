"""The whole picture through the public command: real vLLM, DeepSpeed, Ray, MLflow, 135M model."""

import json
import time

import pytest

from tests.e2e.command import TINY, alive, engines_of, rnr, start

pytestmark = pytest.mark.timeout(1500)


def test_killed_driver_leaves_a_run_that_resumes(killed_and_resumed):
    run, events, _, log = killed_and_resumed
    assert (run / "reveal" / "events.jsonl").read_bytes() == events, "reveal was done again"
    assert "reveal: done before" in log
    assert log.strip().splitlines()[-1] == str(run)


def test_no_engine_outlives_a_finished_run(killed_and_resumed):
    _, _, engines, _ = killed_and_resumed
    assert engines
    assert not alive(engines)


def test_summary_has_the_documented_shape(killed_and_resumed):
    run, *_ = killed_and_resumed
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["schema_version"], summary["recipe"]) == (2, "reveal-and-release")
    steps, details = summary["rows"], summary["details"]
    assert [step["kind"] for step in steps] == ["reference", "control", "step"]
    measures = {measure["name"] for measure in summary["measures"]}
    names = [step["name"] for step in steps]
    assert names[:2] == ["base", "retain-only"]
    assert names[2:] in (["-f1"], ["joint"])  # the joint search may find nothing better
    searched = {trial["step"] for trial in details["trials"]}
    assert searched == {"-f0", "+r1", "-f1"}
    assert steps[0]["notes"]["terms"] == []
    assert [term["coefficient"] > 0 for term in steps[-1]["notes"]["terms"]] == [False, True, False]
    assert len(details["front"]) == 2  # Eq. 1's model and another
    assert sum(point["winner"] for point in details["front"]) == 1
    for step in steps:
        scores = step["scores"]
        assert step["split"] == "final"
        assert scores.keys() == measures
        for measure in (
            "toxicity/challenging/fraction_gt_0.5",
            "toxicity/challenging/expected_max",
            "toxicity/ordinary/fraction_gt_0.5",
            "judge/challenging/fraction",
            "perplexity/in_domain",
            "perplexity/out_of_domain",
            "output/empty_share",
            "output/mean_length",
            "output/entropy",
            "output/distinct_2",
            "output/base_nll",
        ):
            score = scores[measure]
            assert score["ci95"][0] <= score["value"] <= score["ci95"][1]
        assert scores["toxicity/challenging/fraction_gt_0.5"]["n_samples"] == 18
        assert scores["perplexity/in_domain"]["value"] > 5
    assert steps[-1]["scores"]["perplexity/in_domain"]["ratio"] > 0
    assert {stage["name"] for stage in summary["stages"]} >= {"reveal", "release", "evaluate"}
    assert summary["versions"]["ray"]


def test_forget_set_holds_what_the_model_said(killed_and_resumed):
    import pyarrow.parquet as pq

    run, *_ = killed_and_resumed
    rows = pq.read_table(run / "reveal" / "forget_set.parquet").to_pylist()
    assert rows
    assert all(row["split"] == "train" and row["token_ids"] and row["instruction"] for row in rows)
    assert all(row["score"] >= 0.1 for row in rows)
    pulls = json.loads((run / "reveal" / "pulls.json").read_text())
    # Which soft prompts decode alike depends on the machine's arithmetic: a search may run out.
    instructions = pq.read_table(run / "reveal" / "arms.parquet").num_rows
    assert len({pull["id"] for pull in pulls}) == len(pulls) == min(6, instructions)
    assert len({pull["arm"] for pull in pulls}) == len(pulls) > 3


def test_figures_are_pictures(killed_and_resumed):
    run, *_ = killed_and_resumed
    for name in ("steps", "search", "reveal", "front"):
        assert (run / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_mlflow_holds_one_parent_with_nested_runs(killed_and_resumed):
    from mlflow import MlflowClient

    run, *_ = killed_and_resumed
    client = MlflowClient(f"sqlite:///{run.parent / 'mlflow.db'}")
    [experiment] = [e for e in client.search_experiments() if e.name == "rnr"]
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    parents = [r for r in runs if "mlflow.parentRunId" not in r.data.tags]
    assert [r.info.run_name for r in parents] == [run.name]
    toxic = "toxicity/challenging/fraction_gt_0.5"
    result = json.loads((run / "summary.json").read_text())["rows"][-1]["scores"][toxic]
    assert parents[0].data.metrics[toxic] == pytest.approx(result["value"])
    names = {r.info.run_name for r in runs}
    assert {"reveal", "release", "evaluate", "train -f0", "evaluate base"} <= names
    assert any(name.startswith("outer iteration") for name in names)
    assert {"trial -f0 1", "trial +r1 0.3", "trial -f1 0.1"} <= names
    [parent] = parents
    assert f"result/{toxic}" in parent.data.metrics and "system/run_memory_gib" in (
        parent.data.metrics
    )
    assert {"outer 1/score", "outer 2/score"} <= {
        key for r in runs if r.info.run_name == "reveal" for key in r.data.metrics
    }
    assert parent.data.tags["rnr.run_dir"] == str(run)
    told = {one.dataset.name for one in parent.inputs.dataset_inputs}
    assert {"forget contexts", "forget set", "retain answers"} <= told
    files = {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert {"steps.png", "results.json", "continuations.json", "config.json"} <= files
    [model] = client.search_logged_models([experiment.experiment_id])
    assert str(model.status) == "READY" and model.source_run_id == parent.info.run_id


def test_the_log_ends_with_a_verdict_and_holds_nobody_else_s_bars(killed_and_resumed):
    *_, log = killed_and_resumed
    for foreign in ("Loading weights", "it/s]", "Warning", "[deepspeed]", "0%|"):
        assert foreign not in log, foreign
    ending = log.strip().splitlines()[-12:]
    assert any(line.startswith("Result: ") and " against base: " in line for line in ending)
    assert any(line.startswith("Next: rnr compare ") for line in ending)
    assert "release: stage 2 of 5" in log


def test_compare_asks_both_models_of_one_engine_that_ends(killed_and_resumed, tmp_path):
    run, *_ = killed_and_resumed
    log, engines = tmp_path / "compare.txt", []
    comparing = start(["compare", str(run), "The weather today is", "--n", "1"], log)
    while comparing.poll() is None:
        engines = engines_of(comparing.pid) or engines
        time.sleep(0.2)
    shown = log.read_text(encoding="utf-8")
    assert comparing.returncode == 0, shown
    assert "before" in shown
    assert "after" in shown
    assert engines and not alive(engines)


def test_exports_load_and_agree(killed_and_resumed, tmp_path):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run, *_ = killed_and_resumed
    adapter, merged = tmp_path / "adapter", tmp_path / "merged"
    done = rnr(["export", str(run), "--adapter", str(adapter), "--merged", str(merged)], tmp_path)
    assert done.returncode == 0, done.stderr
    [known, *_] = json.loads((run / "release" / "models.json").read_text())
    assert (known["name"], known["kind"]) == ("base", "reference")
    checkpoint = known["model"]["checkpoint"]
    tokenizer = AutoTokenizer.from_pretrained(merged)
    inputs = tokenizer("The river rises in the hills and", return_tensors="pt")
    base = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    with torch.inference_mode():
        before = base(**inputs).logits
        adapted = PeftModel.from_pretrained(base, adapter)(**inputs).logits
        whole = AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32)(**inputs).logits
    # The merged export is rounded to the checkpoint's bf16; the adapter is not.
    assert (adapted - whole).abs().max() < 0.35 * (adapted - before).abs().max()
    assert (adapted - before).abs().max() > 0.1


def test_run_directory_of_another_config_is_refused(killed_and_resumed):
    run, *_ = killed_and_resumed
    refused = rnr(["run", str(TINY), "--set", "seed=5", "--resume", str(run)], run.parent)
    assert refused.returncode == 2
    assert "belongs to another config" in refused.stderr
    assert "seed" in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1


def test_final_is_not_read_again_under_another_config(killed_and_resumed):
    run, *_ = killed_and_resumed
    again = ["run", str(TINY), "--set", "evaluate.sampling.n=2", "--resume", str(run)]
    refused = rnr(again, run.parent)
    assert refused.returncode == 2
    assert "evaluate has read the split final" in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1


def test_samples_of_all_steps_are_paired(killed_and_resumed):
    import pyarrow.parquet as pq

    run, *_ = killed_and_resumed
    files = [*(run / "evaluate").glob("*.parquet"), *(run / "baselines").rglob("cmd.parquet")]
    assert len(files) == len(json.loads((run / "summary.json").read_text())["rows"]) + 1
    one, *others = (
        pq.read_table(path, columns=["context_id"])["context_id"].to_pylist() for path in files
    )
    assert all(one == other for other in others)


def test_baselines_stand_beside_the_result_at_its_budget(killed_and_resumed):
    run, _, _, log = killed_and_resumed
    content = json.loads((run / "baselines" / "baselines.json").read_text())
    rows = {row["name"]: row for row in content["rows"]}
    assert list(rows) == ["base", "retain-only", "release", "cmd", "icu"]
    ours = rows["release"]["notes"]
    row = rows["cmd"]
    assert row["notes"]["candidates"] == ours["candidates"] == 4
    # Whole steps are trained: the last one, here of one item, may go over.
    assert ours["tokens"] <= row["notes"]["tokens"] < 1.5 * ours["tokens"]
    assert row["split"] == "final"
    difference = row["against_own"]["toxicity/challenging/fraction_gt_0.5"]
    assert difference["ci95"][0] <= difference["value"] <= difference["ci95"][1]
    assert "What each was given" in log
