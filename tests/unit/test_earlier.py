"""What a stage had made before it was made anew: nobody takes the new files for the old ones."""

import shutil
from pathlib import Path

import pytest

from rnr_dist.errors import InputError
from rnr_dist.run.directory import RunDir, read, write
from rnr_dist.types import Adapter, NamedModel
from rnr_dist.weights.checkpoints import keep_base, resolve_model
from tests.unit.command_fakes import rnr
from tests.unit.run_fakes import checkpoint, config


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run whose release was made anew, under other keys; each time with adapter and models."""
    monkeypatch.chdir(tmp_path)
    checkpoint(tmp_path / "model", 0)
    base = resolve_model("./model")
    run = RunDir.open(tmp_path / "run", config().content(), resume=False)
    keep_base(run.path, base)
    for mark in ("first", "second"):
        run.begin("release", mark)
        write_models(run, "release", base, adapter_of(run, "release", mark))
    return run


def adapter_of(run, stage, content):
    folder = run.path / stage / "adapters" / "-f0"
    folder.mkdir(parents=True)
    (folder / "adapter_model.safetensors").write_text(content, encoding="utf-8")
    return Adapter(str(folder), content, "t", "forget")


def write_models(run, stage, base, adapter):
    models = [
        NamedModel("base", "reference", base),
        NamedModel("-f0", "step", base.plus(-1.0, adapter)),
    ]
    write(run.stage(stage) / "models.json", models)


def adapters_of(place):
    """The content of each adapter that the models in this folder name."""
    models = read(place / "models.json", list[NamedModel])
    paths = [Path(term.adapter.path) for one in models for term in one.model.terms]
    return [(path / "adapter_model.safetensors").read_text(encoding="utf-8") for path in paths]


def test_models_of_an_earlier_attempt_name_its_own_adapters(run, tmp_path):
    assert adapters_of(run.path / "release") == ["second"]
    assert adapters_of(run.path / "earlier" / "release-0") == ["first"]
    moved = tmp_path / "elsewhere"
    run.path.rename(moved)
    assert adapters_of(moved / "earlier" / "release-0") == ["first"]
    base, _ = read(moved / "earlier" / "release-0" / "models.json", list[NamedModel])
    assert base.model.checkpoint == str(tmp_path / "model")


def test_what_was_moved_back_is_the_run_s_again(run):
    (run.path / "release").rename(run.path.parent / "second")
    (run.path / "earlier" / "release-0").rename(run.path / "release")
    assert adapters_of(run.path / "release") == ["first"]


def test_a_path_to_another_stage_counts_as_long_as_that_was_never_made_anew(run):
    run.begin("reveal", "one")
    run.begin("baselines", "one")
    adapter = adapter_of(run, "reveal", "of reveal")
    write_models(run, "baselines", resolve_model("./model"), adapter)
    earlier = run.begin("baselines", "two")
    assert adapters_of(earlier) == ["of reveal"]
    run.begin("reveal", "two")
    adapter_of(run, "reveal", "of another reveal")
    with pytest.raises(InputError) as refused:
        read(earlier / "models.json", list[NamedModel])
    assert str(refused.value) == (
        f"{earlier}/models.json: found the path ./reveal/adapters/-f0, but reveal was made anew, "
        "then or later; expected a path to what stands as it was, or one in baselines: it may have "
        f"led to {run.path}/earlier/reveal-0"
    )


def test_a_damaged_file_that_was_put_aside_names_nothing(run):
    run.finish("release", "second")
    models = run.path / "release" / "models.json"
    models.write_text(models.read_text(encoding="utf-8") + " ", encoding="utf-8")
    run.begin("release", "second")
    aside = run.path / "earlier" / "release-damaged-0"
    with pytest.raises(InputError, match=r"found the path \./release/adapters/-f0 in a file that"):
        read(aside / "release" / "models.json", list[NamedModel])


@pytest.mark.parametrize("command", [("compare", "So I"), ("export", "--merged", "out")])
def test_neither_an_earlier_stage_nor_damaged_files_are_a_run(run, capsys, command):
    run.finish("release", "second")
    (run.path / "release" / "models.json").write_text("[]", encoding="utf-8")
    run.begin("release", "second")
    first, *more = command
    for name in ("release-0", "release-damaged-0"):
        place = run.path / "earlier" / name
        assert rnr(first, place, *more) == 2
        [line] = [one for one in capsys.readouterr().err.splitlines() if one.startswith("rnr: ")]
        assert line.startswith(f"rnr: {place}: no released model; expected a run directory after")


def test_a_place_is_free_also_where_an_older_one_was_deleted(run):
    run.begin("release", "third")
    shutil.rmtree(run.path / "earlier" / "release-0")
    assert run.begin("release", "fourth").name == "release-0"
    assert run.begin("release", "fifth").name == "release-2"
