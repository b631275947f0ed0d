"""Where a run comes from: tags, parameters and datasets as MLflow hears them."""

import json
from types import SimpleNamespace

import pytest
from mlflow import MlflowClient

from rnr_dist.config.file import validate
from rnr_dist.recipes.origin import (
    command_line,
    datasets_made,
    datasets_of,
    parameters,
    tags_of,
)
from rnr_dist.recipes.pipeline import RECIPES
from rnr_dist.release.reader import trial_name
from rnr_dist.run.delivery import Dataset, flat
from rnr_dist.run.directory import RunDir, write_rows
from rnr_dist.run.tracking import Tracker, default_uri
from rnr_dist.types import Context, Split
from tests.unit.run_fakes import config, content


def test_the_command_is_told_without_its_secrets(monkeypatch):
    monkeypatch.setenv("MY_TOKEN", "planted-secret")
    typed = ["/x/bin/rnr", "run", "a config.yaml", "--set", "task.api_key=abc", "--set"]
    typed += ["tracking.uri=http://me:pw@host/x?token=1", "--set", "name=planted-secret"]
    assert command_line(typed) == (
        "rnr run 'a config.yaml' --set 'task.api_key=***' --set tracking.uri=http://host/x "
        "--set 'name=***'"
    )
    assert command_line(["/venv/rnr_dist/__main__.py", "check"]) == "rnr check"


def test_tags_say_who_ran_what_and_with_which_versions(tmp_path):
    found = config()
    run = RunDir.open(tmp_path / "run", found.content(), resume=False)
    tags = tags_of(found, run)
    assert tags["rnr.run_dir"] == str(tmp_path / "run") and tags["mlflow.user"]
    assert tags["mlflow.source.name"] == "rnr reveal-and-release: small"
    assert (
        len(tags["mlflow.source.git.commit"]) == 40
        or "rnr-dist" in tags["mlflow.source.git.commit"]
    )
    assert tags["version.torch"].startswith("2.") and all(tags.values())


@pytest.mark.parametrize(
    ("recipe", "until", "used", "unused"),
    [
        ("reveal-and-release", "reveal", {"reveal", "task", "seed"}, {"release", "evaluate"}),
        ("reveal-and-release", "report", {"reveal", "release", "evaluate"}, {"methods", "sweep"}),
        ("reveal-and-release", "baselines", {"methods", "pairing"}, {"sweep"}),
        ("unlearn-sequences", "report", {"memorise", "pairing", "stopping"}, {"sweep", "reveal"}),
        ("unlearn-sequences", "sweep", {"sweep", "memorise"}, {"evaluate", "release"}),
    ],
)
def test_only_what_a_run_goes_through_is_a_parameter(recipe, until, used, unused):
    found = parameters(config(recipe), RECIPES[recipe], until)
    assert used | {"engines", "workers"} <= set(found) and not unused & set(found)
    assert "tracking" not in found
    if recipe == "unlearn-sequences" and until == "report":
        assert set(found["methods"]) == {"icu", "retained"}
    told = dict(flat(found))
    assert all(told.values()) and "None" not in told.values()


def test_datasets_are_known_by_content_and_hold_no_text(tmp_path):
    own = tmp_path / "inside.txt"
    own.write_text("a private text\n\nanother one\n")
    plain = content()
    plain["task"]["in_domain"] = [{"source": str(own), "splits": {"retain": 1}}]
    told = validate(plain, "")
    task = SimpleNamespace(gives={"contexts"})
    task.contexts = lambda split, kind: (
        [Context("1", "private", split, kind)] * 3 if split is Split.TRAIN else []
    )
    found = {dataset.name: dataset for dataset in datasets_of(told, task)}
    assert found["forget contexts"].profile == {"num_rows": 3, "train": 3}
    assert found["task.in_domain.0"].source == str(own)
    assert found["task.challenging"].source == "builtin:expository"
    before = found["task.in_domain.0"].digest
    own.write_text("a private text, changed\n")
    [after] = [one for one in datasets_of(told, task) if one.name == "task.in_domain.0"]
    assert after.digest != before
    assert "private" not in json.dumps([str(one) for one in found.values()]).replace(
        str(tmp_path), ""
    )


def test_what_a_stage_has_made_is_a_dataset_that_mlflow_lists_once(tmp_path):
    run = RunDir.open(tmp_path / "runs" / "one", config().content(), resume=False)
    context = Context("1", "once", Split.TRAIN, "g")
    write_rows(run.stage("reveal") / "forget_set.parquet", [context, context])
    [made] = datasets_made(run, "reveal")
    assert (made.name, made.profile["num_rows"]) == ("forget set", 2)
    assert made.columns["text"] == "string"
    assert not [*datasets_made(run, "evaluate"), *datasets_made(run, "release")]
    runs = tmp_path / "runs"
    tracker = Tracker(default_uri(runs), "rnr", run.path / "spool.jsonl")
    with tracker.parent("one", {}):
        for dataset in (made, made, Dataset("retain", "d", "builtin:practical")):
            tracker.dataset(dataset)
    assert (run.path / "spool.jsonl").read_text() == ""
    client = MlflowClient(default_uri(runs))
    [found] = client.search_runs([client.get_experiment_by_name("rnr").experiment_id])
    told = {one.dataset.name: one.dataset for one in found.inputs.dataset_inputs}
    assert set(told) == {"forget set", "retain"}
    assert told["forget set"].digest == made.digest
    assert json.loads(told["forget set"].source)["uri"].endswith("forget_set.parquet")


def test_a_trial_is_called_by_its_step_and_weights():
    assert trial_name("-f0", "2.2", 0, [-2.2]) == "trial -f0 2.2"
    assert trial_name("+r1", "0.5", 2, [-2.2, 0.5]) == "trial +r1 0.5 (fresh 2)"
    told = trial_name("joint", "joint 3", 1, [-2.2, 0.5, -0.02])
    assert told == "trial joint 3: -2.2 +0.5 -0.02 (fresh 1)"
