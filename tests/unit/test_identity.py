"""What a run is made from is known by content: edited data, flipped bits, stages made anew."""

import json
import shutil
from dataclasses import replace

import pytest

from rnr_dist.recipes.recipe import Recipe
from rnr_dist.run.directory import BEGUN_NOTE, read_json, write, write_json
from rnr_dist.run.seal import final_readings, rereading_note
from rnr_dist.types import NamedModel
from rnr_dist.weights.checkpoints import resolve_model
from tests.unit.run_fakes import (
    checkpoint,
    content,
    pretended,
    refusal,
    replaced,
    runner,
    validate,
)

WHOLE = ["reveal", "release", "evaluate", "report"]


@pytest.fixture
def texts(tmp_path):
    path = tmp_path / "openings.txt"
    path.write_text("So I told him\nAnd then she said\n")
    return path


@pytest.fixture
def config(texts):
    def made(**more):
        plain = content(**more)
        source = {**plain["task"]["challenging"], "source": texts.name}
        return validate({**plain, "task": {**plain["task"], "challenging": source}}, "")

    return made


@pytest.fixture
def go(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoint(tmp_path / "model", 0)
    ran = []
    return runner(tmp_path / "run", monkeypatch, ran, pretended(ran))


@pytest.fixture
def run(tmp_path):
    return tmp_path / "run"


@pytest.fixture
def said(capsys):
    return lambda: " ".join(capsys.readouterr().err.split())


def flip(path):
    """Change one bit of a file's content, and nothing of its size."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


# Data and checkpoints


@pytest.mark.parametrize("until", ["reveal", None])
def test_a_data_file_that_was_edited_is_refused_until_it_is_what_it_was(
    go, config, texts, run, until
):
    before = texts.read_text()
    go(config(), until)
    texts.write_text(before.replace("him", "her"))
    sentence = refusal(go, config())
    assert (
        f"{run}: the data openings.txt has another content than when reveal was begun" in sentence
    )
    assert f"or remove {run / 'reveal'} to begin it anew" in sentence
    assert read_json(run / "config.json")["task"]["challenging"]["source"] == "openings.txt"
    texts.write_text(before)
    assert go(config()) == ([] if until is None else WHOLE[1:])
    texts.unlink()
    texts.write_text(before)  # another file of the same content is the same data
    assert go(config()) == []


def test_a_stage_that_was_interrupted_does_not_go_on_with_other_data(
    tmp_path, config, texts, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    checkpoint(tmp_path / "model", 0)

    def broken(bench, task, run):
        raise RuntimeError("interrupted")

    recipes = {name: replaced(recipe, {"reveal": broken}) for name, recipe in pretended([]).items()}
    go = runner(tmp_path / "run", monkeypatch, recipes=recipes)
    with pytest.raises(RuntimeError, match="interrupted"):
        go(config())
    texts.write_text("Another opening\n")
    assert "than when reveal was begun" in refusal(go, config())


def test_removing_the_stage_takes_the_edited_data(go, config, texts, run, said):
    go(config(evaluate={"split": "dev"}))
    texts.write_text("Another opening\n")
    shutil.rmtree(run / "reveal")
    assert go(config(evaluate={"split": "dev"})) == ["reveal"], "it made the same as before"


@pytest.mark.parametrize("name", ["tokenizer.json", "chat_template.jinja", "special_tokens.txt"])
def test_what_lies_beside_the_weights_counts_too(go, config, tmp_path, name):
    beside = tmp_path / "model" / name
    beside.write_text("{}")
    go(config(), "reveal")
    beside.write_text("{ }")
    assert "model ./model: what lies beside its weights has another content" in refusal(
        go, config()
    )
    beside.write_text("{}")
    assert go(config(), "reveal") == []


def test_the_model_of_another_row_is_known_by_content(go, config, tmp_path, run):
    checkpoint(tmp_path / "other", 3)
    with_other = config(evaluate={"split": "dev", "others": {"theirs": "./other"}})
    go(with_other)
    shutil.rmtree(tmp_path / "other")
    checkpoint(tmp_path / "other", 4)
    assert "the model ./other has another content than when evaluate" in refusal(go, with_other)


# The stages before


def test_a_stage_under_which_another_was_made_anew_is_made_anew_too(go, config, run, said):
    dev = config(evaluate={"split": "dev"})
    go(dev)
    (run / "reveal" / "more.txt").write_text("what this reveal found beside")
    (run / "reveal" / "manifest.json").unlink()
    said()
    # Release makes what it made before, from whatever it was: evaluate stays.
    assert go(dev) == ["reveal", "release"]
    told = said()
    assert "release: made from another stage reveal; made anew" in told
    assert "release: made from other results before, now in" in told
    assert "evaluate: done before" in told
    assert (run / "earlier" / "release-0" / "made.txt").exists()
    assert go(dev) == []


def test_a_stage_that_makes_the_same_again_leaves_those_after_it(go, config, run):
    go(config())
    shutil.rmtree(run / "reveal")
    assert go(config()) == ["reveal"]


def test_another_result_under_the_same_config_is_another_reading_of_final_and_tables_say_so(
    go, config, run, tmp_path, said
):
    base = resolve_model(str(tmp_path / "model"))

    def released(other):
        models = [NamedModel("base", "reference", base), NamedModel("-f0", "step", other)]
        write(run / "release" / "models.json", models)

    go(config(), "release")
    released(base)
    (run / "release" / "manifest.json").unlink()
    go(config())
    (run / "evaluate" / "manifest.json").unlink()
    assert "evaluate" in go(config()), "it goes on with what it has read"
    assert [one.stage for one in final_readings(run)] == ["evaluate"]
    released(replace(base, checkpoint_digest="another"))
    (run / "release" / "manifest.json").unlink()
    said()
    assert "evaluate" in go(config())
    assert "evaluate: reads the split final again, of another result than before" in said()
    assert rereading_note(run) == "the split final was read again once of another result"
    go(config(evaluate={"steps": "ends"}), None, True)
    assert "2 times of another result, or under another config (--reread)" in rereading_note(run)


@pytest.mark.parametrize("left", [None, "[]"])
def test_a_lost_note_of_what_was_read_does_not_open_the_seal(go, config, run, left, said):
    go(config())
    if left is None:
        (run / "final.json").unlink()
    else:
        (run / "final.json").write_text(left)
    assert "evaluate has read the split final" in refusal(go, config(evaluate={"steps": "ends"}))
    (run / "final.json").unlink()
    assert go(config()) == []
    assert [one.stage for one in final_readings(run)] == ["evaluate"]
    assert "final.json: lacks what evaluate has read; noted again" in said()


# Damage


@pytest.mark.parametrize("stage", WHOLE)
def test_a_flipped_bit_in_a_finished_stage_makes_it_anew(go, config, run, stage, said):
    go(config(), "baselines")
    made = run / stage / "made.txt"
    before = made.read_bytes()
    flip(made)
    said()
    # Whatever comes of it, `final` may be read again.
    assert stage in go(config(), None, True)
    assert f"{stage}: {made} is damaged; made anew" in said()
    kept = run / "earlier" / f"{stage}-damaged-0" / stage / "made.txt"
    assert kept.read_bytes() != before


@pytest.mark.parametrize("gone", ["summary.json", "figures/steps.png"])
def test_a_summary_or_a_figure_that_is_deleted_is_made_again(
    tmp_path, config, run, gone, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    checkpoint(tmp_path / "model", 0)
    ran = []

    def report(bench, task, directory):
        ran.append("report")
        write_json(directory.path / "summary.json", {})
        (directory.stage("figures") / "steps.png").write_bytes(b"a figure")

    recipes = {name: replaced(one, {"report": report}) for name, one in pretended(ran).items()}
    go = runner(run, monkeypatch, ran, recipes)
    assert go(config()) == WHOLE
    assert go(config()) == []
    (run / gone).unlink()
    assert go(config()) == ["report"]
    assert (run / gone).exists()


@pytest.mark.parametrize("name", ["manifest.json", BEGUN_NOTE])
@pytest.mark.parametrize("left", [0, 9])
def test_a_stage_whose_own_note_is_cut_is_gone_through_again(go, config, run, name, left, said):
    go(config())
    note = run / "report" / name
    note.write_bytes(note.read_bytes()[:left])
    said()
    assert go(config()) == (["report"] if name == "manifest.json" else [])
    assert go(config()) == []
    if name == "manifest.json":
        assert f"{note}: found no whole JSON" in said()


def test_a_config_that_is_cut_is_the_one_that_is_given_if_the_stages_say_so(go, config, run, said):
    go(config())
    marker = run / "config.json"
    whole = marker.read_bytes()
    marker.write_bytes(whole[: len(whole) // 2])
    said()
    assert go(config()) == []
    assert "config.json: found no whole JSON" in said()
    assert marker.read_bytes() == whole
    marker.write_bytes(whole[: len(whole) // 2])
    assert "belongs to another config" in refusal(go, config(seed=5))


def test_a_layout_without_its_number_is_named(go, config, run):
    go(config(), "reveal")
    (run / "layout.json").write_text("{}")
    assert refusal(go, config()) == f"{run / 'layout.json'}: found no `layout`; expected one"


@pytest.mark.parametrize("name", ["base.json", "layout.json", "final.json", "stages.json"])
def test_other_notes_that_are_cut_are_named_in_one_sentence(go, config, run, name):
    go(config(), "release")
    (run / "final.json").write_text("[]")
    note = run / name
    note.write_bytes(note.read_bytes()[:1])
    sentence = refusal(go, config())
    assert sentence.startswith(f"{note}: found no whole JSON (")
    told = "remove it, and --resume makes it anew" if name == "stages.json" else "from a copy"
    assert sentence.endswith(told)


# Runs of earlier versions


@pytest.mark.parametrize("summary", [True, False])
def test_a_run_that_noted_no_inputs_goes_on_and_they_are_noted(go, config, run, said, summary):
    go(config())
    if summary:
        (run / "summary.json").write_text("{}")
    for name in WHOLE:
        path = run / name / "manifest.json"
        known = read_json(path)
        del known["inputs"]
        write_json(path, known)
        write_json(run / name / BEGUN_NOTE, {"fingerprint": known["fingerprint"]})
    said()
    assert go(config()) == ([] if summary else ["report"])
    assert "reveal: made by an earlier version, what it was made from is noted now" in said()
    assert go(config()) == []
    assert "earlier version" not in said()
    noted = read_json(run / "release" / "manifest.json")["inputs"]
    assert "stage reveal" in noted and len(noted) > 0
    final = json.loads((run / "final.json").read_text())
    assert [one["stage"] for one in final] == ["evaluate"]


def test_a_moved_run_says_once_where_it_lay(go, config, run, tmp_path, monkeypatch, said):
    go(config())
    place = tmp_path / "elsewhere"
    shutil.move(run, place)
    said()
    moved = runner(place, monkeypatch, [])
    assert moved(config()) == []
    assert f"{place}: was moved or copied; it lay in {run} before" in said()
    assert moved(config()) == []
    assert "was moved" not in said()


def test_stages_say_what_they_write_beside_their_folders():
    """A stage whose outputs are not listed would be done for ever."""
    from rnr_dist.recipes.pipeline import RECIPES

    for recipe in RECIPES.values():
        assert isinstance(recipe, Recipe)
        assert {"summary.json", "figures"} <= set(recipe.stage("report").beside)
