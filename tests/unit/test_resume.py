"""Going on with a run: a changed key makes those stages anew that depend on it, and says which."""

import pytest

from rnr_dist.errors import InputError
from rnr_dist.recipes import pipeline
from rnr_dist.run.directory import read_json
from rnr_dist.run.seal import final_readings, rereading_note
from tests.unit.run_fakes import TASKS, checkpoint, config, refusal, replaced, runner

DEV = {"evaluate": {"split": "dev"}}


@pytest.fixture
def go(tmp_path, monkeypatch):
    """Do what is not done of a pretended recipe; returns the stages that ran."""
    monkeypatch.chdir(tmp_path)
    checkpoint(tmp_path / "model", 0)
    return runner(tmp_path / "run", monkeypatch)


@pytest.fixture
def run(tmp_path):
    return tmp_path / "run"


def text(path):
    return (path / "made.txt").read_text()


WHOLE = {
    "reveal-and-release": ["reveal", "release", "evaluate", "report"],
    "unlearn-sequences": ["memorise", "icu", "evaluate", "report"],
}
BOTH = pytest.mark.parametrize("recipe", WHOLE)


@BOTH
def test_what_is_done_is_not_done_again(go, recipe):
    found = config(recipe)
    assert go(found) == WHOLE[recipe]
    assert go(found) == []
    assert go(found, "baselines") == ["baselines"]
    assert go(found, "baselines") == []


@BOTH
def test_a_stage_brings_what_it_needs_and_nothing_else(go, recipe):
    first = WHOLE[recipe][0]
    assert go(config(recipe), first) == [first]
    assert go(config(recipe), "evaluate") == WHOLE[recipe][1:3]
    assert go(config(recipe), "baselines") == ["report", "baselines"]
    assert go(config(recipe)) == []


def test_a_sweep_needs_memorising_alone(go):
    assert go(config("unlearn-sequences"), "sweep") == ["memorise", "sweep"]
    with pytest.raises(InputError, match="the recipe reveal-and-release has no stage sweep; expec"):
        pipeline.recipe_of(config(), "sweep")


@BOTH
def test_a_changed_evaluation_makes_only_what_reads_it_anew_and_says_which(go, recipe, run, capsys):
    go(config(recipe, **DEV), "baselines")
    go(config(recipe, **DEV))
    before = {name: text(run / name) for name in ("evaluate", "report", "baselines")}
    capsys.readouterr()
    more = {"evaluate": {"split": "dev", "steps": "ends"}}
    assert go(config(recipe, **more)) == ["evaluate", "report"]
    told = " ".join(capsys.readouterr().err.split())
    assert "changed: evaluate.steps; made anew: evaluate, report, baselines" in told
    assert "evaluate: made with another config before, now in" in told
    assert go(config(recipe, **more), "baselines") == ["baselines"]
    for name, content in before.items():
        assert text(run / "earlier" / f"{name}-0") == content
    assert read_json(run / "config.json")["evaluate"]["steps"] == "ends"


def test_what_was_made_before_is_there_again_for_the_config_of_before(go, run):
    """Not computed anew only to be what it was: it lies in `earlier`, and stays there."""
    go(config(**DEV))
    first = text(run / "evaluate")
    go(config(evaluate={"split": "dev", "steps": "ends"}))
    go(config(**DEV))
    assert text(run / "earlier" / "evaluate-0") == first
    assert (run / "earlier" / "evaluate-1").exists()


SIDE = {"reveal-and-release": ["baselines"], "unlearn-sequences": ["baselines", "sweep"]}
LATER = {recipe: [*WHOLE[recipe][1:], *SIDE[recipe]] for recipe in WHOLE}


@pytest.mark.parametrize(
    ("recipe", "more", "anew"),
    [
        ("reveal-and-release", {"release": {"iterations": 2}}, LATER["reveal-and-release"]),
        ("reveal-and-release", {"methods": {"run": ["cmd"]}}, ["baselines"]),
        ("unlearn-sequences", {"stopping": {"epochs": 3}}, LATER["unlearn-sequences"]),
        ("unlearn-sequences", {"methods": {"icu": {"grid": [{}]}}}, LATER["unlearn-sequences"]),
        ("unlearn-sequences", {"methods": {"run": ["kl"]}}, ["baselines"]),
        ("unlearn-sequences", {"methods": {"kl": {"grid": [{}]}}}, ["baselines"]),
        ("unlearn-sequences", {"sweep": {"over": {"learning_rate": [1e-5]}}}, ["sweep"]),
    ],
)
def test_a_changed_section_leaves_the_stages_before_it(go, recipe, more, anew):
    def everything(found):
        return [name for until in (None, *SIDE[recipe]) for name in go(found, until)]

    assert everything(config(recipe, **DEV)) == [*WHOLE[recipe], *SIDE[recipe]]
    assert everything(config(recipe, **DEV, **more)) == anew
    assert everything(config(recipe, **DEV, **more)) == []


def test_a_sweep_depends_on_the_method_that_it_tries(go):
    swept = {"sweep": {"method": "kl", "over": {"learning_rate": [1e-5]}}, **DEV}
    assert go(config("unlearn-sequences", **swept), "sweep") == ["memorise", "sweep"]
    other = {"icu": {"grid": [{}]}, "run": ["kl"]}
    assert go(config("unlearn-sequences", methods=other, **swept), "sweep") == []
    own = {"kl": {"training": {"batch_size": 4}}}
    assert go(config("unlearn-sequences", methods=own, **swept), "sweep") == ["sweep"]


@pytest.mark.parametrize(
    ("recipe", "key", "value"),
    [
        ("reveal-and-release", "second_judge", "profanity"),
        ("unlearn-sequences", "choices", None),
        ("unlearn-sequences", "dialogues", None),
        ("unlearn-sequences", "sampled_n", 4),
        ("unlearn-sequences", "sampled", {"n": 3}),
    ],
)
def test_what_only_the_evaluation_reads_of_a_task_leaves_what_was_made(
    go, recipe, key, value, capsys
):
    assert go(config(recipe, **DEV), "baselines") != []
    go(config(recipe, **DEV))
    changed = config(recipe, task={**TASKS[recipe], key: value}, **DEV)
    assert go(changed) == ["evaluate", "report"]
    assert f"changed: task.{key}" in capsys.readouterr().err
    assert go(changed, "baselines") == ["baselines"]


@pytest.mark.parametrize(
    ("recipe", "key", "value"),
    [("reveal-and-release", "toxic_above", 0.4), ("unlearn-sequences", "n", 9)],
)
def test_what_else_a_task_says_makes_another_run(go, recipe, key, value):
    go(config(recipe, **DEV))
    changed = config(recipe, task={**TASKS[recipe], key: value}, **DEV)
    assert "none of its finished stages would stay" in refusal(go, changed)


def test_other_data_of_the_evaluation_alone_hold_no_stage_before_it_up(go, tmp_path):
    own = {"choices": "mine.jsonl", "dialogues": None}
    found = config("unlearn-sequences", task={"name": "extraction", **own}, **DEV)
    (tmp_path / "mine.jsonl").write_text("{}", encoding="utf-8")
    assert go(found, "icu") == ["memorise", "icu"]
    (tmp_path / "mine.jsonl").write_text("{ }", encoding="utf-8")
    assert go(found) == ["evaluate", "report"]
    (tmp_path / "mine.jsonl").write_text("{  }", encoding="utf-8")
    assert "the data mine.jsonl has another content than when evaluate was begun" in refusal(
        go, found
    )


@BOTH
@pytest.mark.parametrize(
    ("more", "key"),
    [({"seed": 3}, "seed"), ({"model": "./other"}, "model"), ({"name": "x", "seed": 1}, "name, s")],
)
def test_a_change_that_leaves_nothing_is_another_run(go, recipe, run, more, key):
    go(config(recipe))
    content = (run / "config.json").read_bytes()
    sentence = refusal(go, config(recipe, **more))
    assert f"run: this run directory belongs to another config (differs in {key}" in sentence
    assert "none of its finished stages would stay; expected the same config" in sentence
    assert (run / "config.json").read_bytes() == content
    assert not (run / "earlier").exists()


def test_another_recipe_is_another_run(go, run):
    go(config())
    sentence = refusal(go, config("unlearn-sequences"))
    assert "belongs to another config (differs in recipe)" in sentence
    assert sorted(path.name for path in run.iterdir() if path.is_dir()) == sorted(
        WHOLE["reveal-and-release"]
    )


@BOTH
@pytest.mark.parametrize(
    "more",
    [
        {"engines": {"count": 5, "kv_cache_gib": 1}},
        {"tracking": {"experiment": "other"}},
        {"workers": {"count": 2}},
        {"name": "other"},
    ],
)
def test_what_no_result_follows_from_may_change_freely(go, recipe, more, capsys):
    go(config(recipe), "baselines")
    go(config(recipe))
    capsys.readouterr()
    assert go(config(recipe, **more), "baselines") == []
    assert "made anew: nothing that is finished" in " ".join(capsys.readouterr().err.split())


# What was interrupted


def test_an_interrupted_stage_goes_on_with_the_same_config_and_begins_anew_with_another(
    go, run, monkeypatch
):
    recipe = pipeline.RECIPES["reveal-and-release"]

    def broken(bench, task, directory):
        (directory.stage("release") / "half").touch()
        raise RuntimeError("interrupted")

    half = {**pipeline.RECIPES, recipe.name: replaced(recipe, {"release": broken})}
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "RECIPES", half)
        with pytest.raises(RuntimeError, match="interrupted"):
            go(config())
    assert go(config(), "release") == ["release"]
    assert (run / "release" / "half").exists()
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "RECIPES", half)
        with pytest.raises(RuntimeError, match="interrupted"):
            go(config(release={"iterations": 3}))
    assert go(config(release={"iterations": 2})) == ["release", "evaluate", "report"]
    assert not (run / "release" / "half").exists()
    assert (run / "earlier" / "release-1" / "half").exists()


def test_the_files_of_a_finished_stage_are_looked_at(go, run):
    go(config(), "release")
    (run / "reveal" / "made.txt").unlink()
    assert go(config(), "release") == ["reveal"]


# The sealed split


def test_final_is_read_once_and_by_every_stage_that_reads_it(go, run):
    go(config(), "baselines")
    go(config(), "baselines")
    assert [one.stage for one in final_readings(run)] == ["evaluate", "baselines"]
    assert all(one.commit and one.at for one in final_readings(run))
    assert rereading_note(run) == ""


def test_dev_is_read_as_often_as_one_likes(go, run):
    for steps in ("ends", "all", "ends"):
        go(config(evaluate={"split": "dev", "steps": steps}))
    assert final_readings(run) == []
    assert "evaluate" in go(config())  # and is no reading of final
    assert len(final_readings(run)) == 1


@pytest.mark.parametrize(
    "more", [{"evaluate": {"steps": "ends"}}, {"release": {"iterations": 2}}, DEV]
)
def test_final_is_not_read_again_under_another_config(go, run, more):
    go(config())
    files = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    if more is DEV:  # another split may be read at any time, and final again under its own config
        go(config(**more))
        assert go(config()) == ["evaluate", "report"]
        assert rereading_note(run) == ""
        return
    sentence = refusal(go, config(**more))
    assert "evaluate has read the split final on" in sentence
    assert "expected the same config, or --reread, which every table then tells" in sentence
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == files


def test_whoever_asks_for_it_reads_again_and_tables_say_so(go, run):
    go(config())
    assert go(config(evaluate={"steps": "ends"}), None, True) == ["evaluate", "report"]
    assert rereading_note(run) == (
        "the split final was read again once under another config (--reread)"
    )
    go(config(release={"iterations": 2}), None, True)
    assert "read again 2 times" in rereading_note(run)
    # It goes on with what it read last, and is refused for what it has never read.
    assert go(config(release={"iterations": 2})) == []
    assert "has read the split final" in refusal(go, config(release={"iterations": 3}))


def test_a_methods_change_may_not_read_final_again_either(go):
    go(config(), "baselines")
    sentence = refusal(go, config(methods={"run": ["cmd"]}), "baselines")
    assert "baselines has read the split final" in sentence
    assert go(config(methods={"run": ["cmd"]}), "baselines", True) == ["baselines"]
