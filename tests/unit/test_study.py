"""Studies: which runs they are, equal budgets, one reading of final, means over seeds."""

import os
from dataclasses import replace
from types import SimpleNamespace

import pytest
import yaml

from rnr_dist.config.file import load_study
from rnr_dist.errors import InputError
from rnr_dist.recipes import pipeline, study
from rnr_dist.recipes.pipeline import fingerprint
from rnr_dist.recipes.study import require_equal_budgets, run_study, study_cells
from rnr_dist.run.directory import RunDir, read_json, write
from rnr_dist.run.lock import LOCK_NOTE, held
from tests.unit.fakes import FakeTracker
from tests.unit.report_fakes import RUDE, behaviour_results, behaviour_row
from tests.unit.run_fakes import checkpoint, config, content, pretended, replaced

DEV = {"evaluate": {"split": "dev"}}


@pytest.fixture
def write_study_file(tmp_path, monkeypatch):
    """Write `study.yaml` beside the config that it is about; returns its path."""
    monkeypatch.chdir(tmp_path)
    checkpoint(tmp_path / "model", 0)

    def written(of=None, **more):
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(of or content()))
        path = tmp_path / "study.yaml"
        found = {"study": "s", "config": "config.yaml", **more}
        path.write_text(yaml.safe_dump(found, sort_keys=False))
        return path

    return written


def refusal(function, *arguments):
    with pytest.raises(InputError) as caught:
        function(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Which runs


def test_a_study_is_its_variants_times_its_seeds(write_study_file, tmp_path):
    variants = {"plain": {}, "more": {"release.iterations": 3, "release.mu": {"low": 1, "high": 2}}}
    path = write_study_file(seeds=[4, 7], variants=variants)
    _, cells = study_cells(path, tmp_path / "runs")
    assert [(cell.variant, cell.seed, cell.config.seed) for cell in cells] == [
        ("plain", 4, 4), ("plain", 7, 7), ("more", 4, 4), ("more", 7, 7),
    ]  # fmt: skip
    assert [cell.config.release.iterations for cell in cells] == [1, 1, 3, 3]
    assert cells[3].config.release.mu.high == 2
    assert [cell.folder.name for cell in cells][1:3] == ["plain-seed-7", "more-seed-4"]
    assert all(cell.folder.parent == tmp_path / "runs" for cell in cells)


def test_without_variants_the_config_is_run_as_it_is(write_study_file, tmp_path):
    [cell] = study_cells(write_study_file(), tmp_path / "runs")[1]
    assert (cell.variant, cell.folder.name) == ("", "seed-0")
    assert cell.config == config()


def test_what_grows_by_seed_gives_each_its_own_data(write_study_file, tmp_path):
    of = content("unlearn-sequences")
    of["task"] = {"name": "extraction", "forget": {"first": 5}}
    path = write_study_file(of, seeds=[0, 1, 3], by_seed={"task.forget.first": 32, "task.n": 1})
    _, cells = study_cells(path, tmp_path)
    assert [cell.config.task.forget.first for cell in cells] == [5, 37, 101]
    assert [cell.config.task.n for cell in cells] == [10, 11, 13]


def test_what_grows_by_seed_grows_from_a_variants_value(write_study_file, tmp_path):
    of = content("unlearn-sequences")
    of["task"] = {"name": "extraction", "forget": {"first": 5}}
    more = {"by_seed": {"task.forget.first": 32}, "variants": {"a": {"task.forget.first": 200}}}
    _, cells = study_cells(write_study_file(of, seeds=[0, 1], **more), tmp_path)
    assert [cell.config.task.forget.first for cell in cells] == [200, 232]


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"seeds": []}, "study.yaml: seeds: found []"),
        ({"seeds": [1, 1]}, "study.yaml: seeds: found [1, 1], expected each once"),
        ({"at_once": 0}, "at_once: found 0"),
        ({"sed": [1]}, "unknown key sed; did you mean seeds?"),
        ({"variants": {"a/b": {}}}, "variants: found the name 'a/b', expected letters"),
        ({"variants": {"a": {"release.iteratoins": 3}}}, "unknown key release.iteratoins; did you"),
        ({"by_seed": {"task.first": 3}}, "by_seed.task.first: found None there, expected a number"),
        ({"by_seed": {"name": 3}}, "by_seed.name: found 'small' there, expected a number"),
        ({"by_seed": {"name.first": 3}}, "by_seed.name.first: found None there"),
        ({"until": "reveal"}, "until reveal evaluates no model; expected evaluate"),
        ({"until": "sweep"}, "the recipe reveal-and-release has no stage sweep; expected one of"),
        ({"config": "nowhere.yaml"}, "nowhere.yaml: cannot be read"),
        ({"variants": {"a": {"seed": 5}}}, "variants.a: found the key seed, expected it in seeds"),
    ],
)
def test_what_a_study_cannot_be_is_named(write_study_file, tmp_path, more, told):
    assert told in refusal(study_cells, write_study_file(**more), tmp_path)


# Equal budgets


def test_methods_by_epochs_have_as_many_places_each():
    require_equal_budgets(config("unlearn-sequences"))
    methods = {"run": ["kl", "dpo"], "kl": {"grid": [{}]}}
    told = refusal(require_equal_budgets, config("unlearn-sequences", methods=methods))
    assert told == (
        "small: methods have different budgets: found methods.icu.grid 2, methods.kl.grid 1, "
        "methods.dpo.grid 2 places; expected the same number for each"
    )
    everywhere = {name: {"grid": [{}]} for name in ("icu", "kl", "dpo")}
    require_equal_budgets(config("unlearn-sequences", methods={"run": ["kl", "dpo"], **everywhere}))


def test_what_is_merged_has_its_budget_whatever_its_grid():
    require_equal_budgets(config(methods={"run": ["cmd", "rmu"], "cmd": {"grid": [{}]}}))
    # ext_sub is trained by no epochs: beside ICU it gets tokens and candidates as they are.
    require_equal_budgets(config("unlearn-sequences", methods={"run": ["ext_sub", "kl"]}))


def test_other_budgets_do_not_matter_where_no_methods_are_compared(write_study_file, tmp_path):
    of = content("unlearn-sequences", methods={"kl": {"grid": [{}]}})
    assert "different budgets" in refusal(study_cells, write_study_file(of), tmp_path)
    assert study_cells(write_study_file(of, until="evaluate"), tmp_path)


# Running it


@pytest.fixture
def go(tmp_path, monkeypatch):
    """Run a study with pretended stages, one run after the other; returns (run, stage) in order.

    `lost` names stages that fail.
    """
    ran, lost = [], set()

    def evaluated(bench, task, run):
        if run.path.name in lost:
            raise RuntimeError("lost")
        ran.append((run.path.name, "evaluate"))
        write(run.stage("evaluate") / "results.json", behaviour_results())

    def compared(bench, task, run):
        found = behaviour_results()
        notes = {"candidates": 5, "dead": bench.config.seed}
        rows = (*found.rows, behaviour_row("dpo", "method", 0.08, 1.1, notes))
        write(run.stage("baselines") / "results.json", replace(found, rows=rows))
        ran.append((run.path.name, "baselines"))

    recipes = {
        name: replaced(recipe, {"evaluate": evaluated, "baselines": compared})
        for name, recipe in pretended([]).items()
    }
    monkeypatch.setattr(pipeline, "RECIPES", recipes)
    monkeypatch.setattr(pipeline, "Tracker", lambda *where: FakeTracker())
    monkeypatch.setattr(study, "make_task", lambda config: SimpleNamespace(oracle=""))
    monkeypatch.setattr(study, "ray_session", lambda config: NoRay())
    monkeypatch.setattr(study, "_run_cells", in_turn)

    def went(path, reread=False):
        ran.clear()
        written = run_study(path, tmp_path / "runs", reread)
        return list(ran), read_json(written)

    went.lost = lost
    return went


class NoRay:
    def __enter__(self):
        return self

    def __exit__(self, *error):
        return False


def in_turn(study, cells, missing, work):
    for number in missing:
        work.run(number)


@pytest.mark.parametrize("place", [".", "seed-1"])
def test_a_study_that_someone_else_works_on_is_refused(go, write_study_file, tmp_path, place):
    path = write_study_file(seeds=[0, 1])
    with held(tmp_path / "runs" / place):
        with pytest.raises(InputError, match=f"process {os.getpid()} .* works on it"):
            go(path)
        assert not (tmp_path / "runs" / "frozen.json").exists()
    ran, _ = go(path)
    assert len(ran) == 4
    assert not list(tmp_path.rglob(LOCK_NOTE))


def test_a_study_goes_on_with_the_runs_that_are_missing(go, write_study_file, tmp_path):
    path = write_study_file(seeds=[0, 1, 2])
    go.lost.add("seed-1")
    with pytest.raises(RuntimeError, match="lost"):
        go(path)
    assert not (tmp_path / "runs" / "study.json").exists()
    go.lost.clear()
    ran, table = go(path)
    assert ran == [(f"seed-{n}", stage) for n in (1, 2) for stage in ("evaluate", "baselines")]
    assert [row["name"] for row in table["rows"]] == ["retain-only", "release", "dpo"]
    assert table["rows"][2]["dead"] == [0, 1, 2]
    assert [*table["rows"][2]["measures"][RUDE.name]["seeds"]] == ["0", "1", "2"]
    again, same = go(path)
    assert (again, same) == ([], table)


def test_commit_and_configs_are_written_down_before_the_first_run(go, write_study_file, tmp_path):
    path = write_study_file(seeds=[0, 1], variants={"a": {}, "b": {"release.iterations": 2}})
    go.lost.add("a-seed-0")
    with pytest.raises(RuntimeError, match="lost"):
        go(path)
    frozen = read_json(tmp_path / "runs" / "frozen.json")
    assert frozen["commit"]
    assert frozen["configs"]["b-seed-1"]["release"]["iterations"] == 2
    assert [*frozen["configs"]] == ["a-seed-0", "a-seed-1", "b-seed-0", "b-seed-1"]


def test_a_study_reads_final_under_one_config(go, write_study_file, tmp_path):
    go(write_study_file(seeds=[0, 1]))
    before = read_json(tmp_path / "runs" / "frozen.json")
    other = content(evaluate={"steps": "ends"})
    told = refusal(go, write_study_file(other, seeds=[0, 1]))
    assert "study has read the split final on" in told and "or --reread" in told
    assert read_json(tmp_path / "runs" / "frozen.json") == before
    ran, table = go(write_study_file(other, seeds=[0, 1]), True)
    assert [name for name, stage in ran if stage == "evaluate"] == ["seed-0", "seed-1"]
    assert table["notes"] == ["the split final was read again once under another config (--reread)"]
    after = read_json(tmp_path / "runs" / "frozen.json")
    assert after["configs"]["seed-0"]["evaluate"]["steps"] == "ends"
    # The seal is on what was read, not on how many run at the same time, or on what engines.
    faster = content(evaluate={"steps": "ends"}, engines={"count": 1})
    assert go(write_study_file(faster, seeds=[0, 1], at_once=2))[0] == []


def test_the_config_before_is_another_one_too(go, write_study_file):
    other = content(evaluate={"steps": "ends"})
    go(write_study_file())
    go(write_study_file(other), True)
    assert "has read the split final" in refusal(go, write_study_file())
    _, table = go(write_study_file(), True)
    assert table["notes"][0].startswith("the split final was read again 2 times")


def test_a_study_that_judged_nothing_may_be_mended(go, write_study_file, monkeypatch):
    """What fails before a run reads `final` has sealed nothing."""
    broken = {name: replaced(recipe, {"reveal": lost}) for name, recipe in pipeline.RECIPES.items()}
    with monkeypatch.context() as patched:
        patched.setattr(pipeline, "RECIPES", broken)
        with pytest.raises(RuntimeError, match="lost"):
            go(write_study_file())
    _, table = go(write_study_file(content(evaluate={"steps": "ends"})))
    assert table["notes"] == []


def lost(bench, task, run):
    raise RuntimeError("lost")


def test_seeds_that_two_commits_judged_are_told(go, write_study_file, monkeypatch):
    def half(bench, task, run):
        if run.path.name == "seed-1":
            raise RuntimeError("lost")

    path = write_study_file(seeds=[0, 1])
    broken = {name: replaced(recipe, {"reveal": half}) for name, recipe in pipeline.RECIPES.items()}
    with monkeypatch.context() as patched:
        patched.setattr(pipeline, "RECIPES", broken)
        patched.setattr("rnr_dist.run.seal.commit", lambda: "a" * 40)
        with pytest.raises(RuntimeError, match="lost"):
            go(path)
    monkeypatch.setattr("rnr_dist.run.seal.commit", lambda: "b" * 40)
    _, table = go(path)
    assert table["notes"] == [f"runs were judged by different commits: {'a' * 12}, {'b' * 12}"]


def test_another_seed_is_another_reading(go, write_study_file):
    go(write_study_file(seeds=[0]))
    assert "has read the split final" in refusal(go, write_study_file(seeds=[0, 1]))


def test_dev_is_not_sealed(go, write_study_file):
    go(write_study_file(content(**DEV), seeds=[0]))
    ran, table = go(write_study_file(content(evaluate={"split": "dev", "steps": "ends"})))
    assert ran == [("seed-0", "evaluate"), ("seed-0", "baselines")]
    assert table["notes"] == []


def test_a_run_is_known_to_be_done_by_its_manifest(write_study_file, tmp_path):
    _, [cell] = study_cells(write_study_file(), tmp_path)
    assert not study._done(cell, "baselines")
    RunDir(cell.folder).finish("baselines", fingerprint(cell.config, "baselines"))
    assert study._done(cell, "baselines")
    assert not study._done(replace(cell, config=config(seed=3)), "baselines")


def test_a_study_file_comes_back(write_study_file):
    found = load_study(write_study_file(seeds=[3], at_once=2))
    assert (found.study, found.seeds, found.until, found.at_once) == ("s", [3], "baselines", 2)


# The command


def test_a_study_is_refused_by_the_command_before_anything_is_made(place, refused):
    def ask(told, *more, **keys):
        study = {"study": "s", "config": "config.yaml", "until": "evaluate", **keys}
        (place / "study.yaml").write_text(yaml.safe_dump(study))
        assert told in refused("study", "study.yaml", *more)

    ask("oracle prof", variants={"a": {"task.oracle": "prof"}})
    ask("until reveal evaluates no model", until="reveal")
    ask("methods.rmu.training.layers", until="baselines")
    ask("./nowhere: no such folder", variants={"a": {"model": "./nowhere"}})
    ask("unknown key task.orcale", variants={"a": {"task.orcale": "lexicon"}})
    unequal = {"name": "x", "task": {"name": "extraction"}, "methods": {"kl": {"grid": [{}]}}}
    (place / "unequal.yaml").write_text(yaml.safe_dump(unequal))
    ask("x: methods have different budgets", until="baselines", config="unequal.yaml")
    (place / "study.yaml").unlink()
    assert "study.yaml: cannot be read" in refused("study", "study.yaml")
