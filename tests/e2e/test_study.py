"""A study of a task of one's own by the public command: real engines, trainings, 135M model."""

import json
import shutil

import pytest
import yaml

from tests.e2e.command import ROOT, rnr

pytestmark = pytest.mark.timeout(1200)

STUDY = {
    "study": "figures",
    "config": "own_task.yaml",
    "until": "report",
    "seeds": [3],
    "variants": {
        "small": {
            # As little of the example as still goes through every stage.
            "reveal.budget": 2,
            "reveal.arms": 4,
            "release.iterations": 0,
            "task.forget.limit": {"reveal": 4, "train": 6, "search": 4, "final": 4},
            "task.retain.limit": {"retain": 2, "final": 2},
            "evaluate.sampling": {"n": 2, "max_tokens": 12},
        }
    },
}


@pytest.fixture(scope="module")
def studied(tmp_path_factory):
    """The example's folder with a study that has run, and what the command said."""
    folder = tmp_path_factory.mktemp("own")
    for name in ("own_task.py", "own_task.yaml"):
        shutil.copy(ROOT / "examples" / name, folder)
    (folder / "study.yaml").write_text(yaml.safe_dump(STUDY))
    done = rnr(["study", "study.yaml", "--folder", "found"], folder)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder, done


def test_its_table_compares_the_result_with_the_base(studied):
    folder, done = studied
    content = json.loads((folder / "found" / "study.json").read_text())
    [row] = [row for row in content["rows"] if row["kind"] == "step"]
    assert row["name"] == "small: release"
    assert set(row["measures"]) == {
        "figures/forget/fraction_gt_0.5",
        "perplexity/in_domain",
        "perplexity/out_of_domain",
    }
    assert "Study figures" in done.stdout
    assert "with figures" in done.stdout


def test_its_run_is_a_whole_one_of_the_own_task(studied):
    folder, _ = studied
    summary = json.loads((folder / "found" / "small-seed-3" / "summary.json").read_text())
    assert summary["config"]["task"]["name"] == "own_task:Figures"
    names = {measure["name"] for measure in summary["measures"]}
    assert "figures/retain/fraction_gt_0.5" in names
    assert [row["name"] for row in summary["rows"]] == ["base", "-f0"]


def test_a_study_goes_on_where_it_was_and_its_seal_holds(studied):
    folder, _ = studied
    again = rnr(["study", "study.yaml", "--folder", "found"], folder)
    assert again.returncode == 0, again.stderr[-2000:]
    assert "1 runs, 0 of them to do" in again.stderr
    other = {**STUDY, "variants": {"small": {**STUDY["variants"]["small"], "release.search.n": 3}}}
    (folder / "other.yaml").write_text(yaml.safe_dump(other))
    refused = rnr(["study", "other.yaml", "--folder", "found"], folder)
    assert refused.returncode == 2
    assert "--reread" in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1
