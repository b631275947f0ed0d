"""`rnr run` for named entities: real vLLM, DeepSpeed, Ray, MLflow, the 135M model, taught first."""

import json
from collections import defaultdict
from pathlib import Path

import pytest

from tests.e2e.command import rnr

pytestmark = pytest.mark.timeout(900)

CONFIG = Path(__file__).with_name("ner_tiny.yaml")
TYPES = ("person", "location")
MEASURES = {f"entities/{kind}/{what}" for kind in TYPES for what in ("f1", "empty", "unread")}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(run directory, standard output, standard error) of a run to its end."""
    folder = tmp_path_factory.mktemp("ner")
    run = folder / "run"
    done = rnr(["run", str(CONFIG), "--run", str(run)], folder)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    return run, done.stdout, done.stderr


@pytest.fixture(scope="module")
def summary(finished):
    run, *_ = finished
    return json.loads((run / "summary.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def answers(finished):
    """By model, the rows of its answers."""
    import pyarrow.parquet as pq

    run, *_ = finished
    return {
        path.stem: pq.read_table(path).to_pylist() for path in (run / "evaluate").glob("*.parquet")
    }


def test_the_rows_are_the_model_before_the_one_that_was_taught_and_the_result(summary):
    assert (summary["task"], summary["recipe"]) == ("ner", "teach-reveal-release")
    kinds = [(row["name"], row["kind"]) for row in summary["rows"]]
    assert kinds == [("base", "other"), ("taught", "reference"), ("-f0", "step")]
    [term] = summary["rows"][-1]["notes"]["terms"]
    assert term["coefficient"] == -1
    declared = {measure["name"]: measure["role"] for measure in summary["measures"]}
    assert declared.keys() == MEASURES | {"entities/retained/f1"}
    roles = {"entities/person/f1": "target", "entities/retained/f1": "utility"}
    assert roles.items() <= declared.items()
    for row in summary["rows"]:
        assert row["split"] == "final" and row["scores"].keys() == declared.keys()
        for score in row["scores"].values():
            assert 0 <= score["ci95"][0] <= score["value"] <= score["ci95"][1] <= 1
    assert any("taught the task first, on 48 rows" in note for note in summary["notes"])


def test_who_was_taught_can_be_read_and_names_what_is_asked(summary):
    """The model before says sentences; the one after lists, right ones among them."""
    before, taught, _ = (row["scores"] for row in summary["rows"])
    for kind in TYPES:
        unread = f"entities/{kind}/unread"
        assert taught[unread]["value"] < before[unread]["value"]
    for name in ("entities/person/f1", "entities/retained/f1"):
        assert taught[name]["value"] > before[name]["value"]


def test_f1_is_that_of_the_answers_that_are_kept(summary, answers):
    assert answers.keys() == {row["name"] for row in summary["rows"]}
    for row in summary["rows"]:
        right, said, true, states = (defaultdict(int) for _ in range(4))
        for one in answers[row["name"]]:
            found, gold = set(json.loads(one["said"] or "[]")), set(json.loads(one["gold"]))
            right[one["type"]] += len(found & gold)
            said[one["type"]] += len(found)
            true[one["type"]] += len(gold)
            states[one["type"], one["state"]] += 1
        for kind in TYPES:
            scores = {what: row["scores"][f"entities/{kind}/{what}"] for what in ("f1", "unread")}
            f1 = 2 * right[kind] / (said[kind] + true[kind])
            assert scores["f1"]["value"] == pytest.approx(f1)
            assert scores["unread"]["value"] == pytest.approx(states[kind, "unread"] / 6)


def test_the_forget_set_is_what_the_taught_model_said_of_persons(finished):
    import pyarrow.parquet as pq

    run, *_ = finished
    rows = pq.read_table(run / "reveal" / "forget_set.parquet").to_pylist()
    assert rows and {row["group"] for row in rows} == {"person"}
    assert {row["split"] for row in rows} == {"train"}
    models = json.loads((run / "teach" / "models.json").read_text(encoding="utf-8"))
    assert [one["name"] for one in models] == ["base", "taught"]
    retained = pq.read_table(run / "release" / "retain_answers.parquet").to_pylist()
    said = [json.loads(row["text"]) for row in retained]
    assert said and sum(not names for names in said) <= len(said) / 4


def test_tables_and_figures_show_it(finished):
    run, printed, log = finished
    assert printed.strip().splitlines()[-1] == str(run)
    shown = printed + log
    for word in ("taught", "−1·f0", "person", "location", "retained"):
        assert word in shown, word
    for foreign in ("Traceback", "Warning", "it/s]"):
        assert foreign not in shown, foreign
    for name in ("steps", "scores", "search"):
        assert (run / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    # Its one prompt is asked as it is: there is no search to draw.
    assert not (run / "figures" / "reveal.png").exists()


def test_verify_finds_it_as_it_was_left(finished):
    run, *_ = finished
    done = rnr(["verify", str(run)], run.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all as they were left" in done.stdout.splitlines()[-1]


def test_a_type_that_no_text_has_is_refused_before_anything_starts(tmp_path):
    words = ["--set", "task.target=persn", "--run", "made"]
    refused = rnr(["run", str(CONFIG), *words], tmp_path)
    assert refused.returncode == 2
    [line] = refused.stderr.strip().splitlines()
    assert "task.texts: found no entity of type 'persn' in builtin:entities, expected some" in line
    assert not (tmp_path / "made").exists()
