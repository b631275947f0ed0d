"""A run that was moved or copied reads its own files, and knows its base again."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from rnr_dist.bench import Bench
from rnr_dist.commands.cli import app, guarded
from rnr_dist.commands.result import open_result
from rnr_dist.config.training import Training
from rnr_dist.errors import InputError
from rnr_dist.methods.merge import Merged
from rnr_dist.recipes import pipeline
from rnr_dist.release.loop import ReleasedStep
from rnr_dist.release.rules import Reading
from rnr_dist.run.directory import RunDir, read, write
from rnr_dist.train.trainings import Note, Trainings
from rnr_dist.types import Adapter, ModelRef, NamedModel, digest
from rnr_dist.weights.checkpoints import keep_base, resolve_model
from rnr_dist.weights.composition import save_adapter
from tests.unit.fakes import FakeTracker
from tests.unit.run_fakes import checkpoint, pretended
from tests.unit.run_fakes import config as make_config

RELEASED = Path("release", "models.json")


def adapter_in(folder, seed):
    torch.manual_seed(seed)
    factors = {"model.layers.0.self_attn.q_proj": (torch.randn(2, 4), torch.randn(4, 2))}
    return save_adapter(folder, factors, alpha=2, base="", trained_on="t", side="forget")


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoint(tmp_path / "model", 0)
    return make_config()


@pytest.fixture
def run(tmp_path, config):
    """A run that has released: one adapter of its own, and the files that name it."""
    run = RunDir.open(tmp_path / "first" / "run", config.content(), resume=False)
    base = resolve_model(config.model)
    keep_base(run.path, base)
    adapter = adapter_in(run.path / "release" / "adapters" / "-f0", 1)
    result = base.plus(-1.0, adapter)
    write(run.path / "release" / "adapters" / "-f0.json", Note("print", adapter))
    models = [NamedModel("base", "reference", base), NamedModel("-f0", "step", result)]
    write(run.path / RELEASED, models)
    step = ReleasedStep("-f0", "subtract", True, 1.0, True, "1", (), result, Reading("m", {}), ())
    write(run.path / "release" / "steps" / "0-f0.json", step)
    beside = Merged("dpo", result, "x", True, (), 1, 1, 0, ())
    write(run.path / "baselines" / "dpo.json", beside)
    return run


def moved(run, place):
    shutil.move(run.path, place)
    return place


def copied(run, place):
    """A copy, whose original's adapters are others by now."""
    shutil.copytree(run.path, place)
    adapter_in(run.path / "release" / "adapters" / "-f0", 2)
    return place


def rnr(*arguments):
    return guarded(lambda: app([*map(str, arguments)], standalone_mode=False))


def paths(value):
    """All paths in a model reference, or in what holds one or an adapter."""
    if isinstance(value, Adapter):
        return [value.path]
    if isinstance(value, ModelRef):
        return [value.checkpoint, *(term.adapter.path for term in value.terms)]
    return paths(value.made if isinstance(value, Note) else value.model)


def test_what_lies_in_the_run_is_written_relative_and_what_lies_outside_is_not(run, tmp_path):
    for path in run.path.rglob("*.json"):
        assert str(run.path) not in path.read_text(), path
    content = json.loads((run.path / RELEASED).read_text())
    [term] = content[1]["model"]["terms"]
    assert term["adapter"]["path"] == "./release/adapters/-f0"
    assert content[0]["model"]["checkpoint"] == str(tmp_path / "model")
    # A folder whose name begins like the run's is not in it.
    beside = Adapter(f"{run.path}-2/adapter", "a", "base", "forget")
    write(run.path / "note.json", Note("f", beside))
    assert read(run.path / "note.json", Note).made == beside


@pytest.mark.parametrize("go", [moved, copied])
def test_every_file_of_a_run_names_what_lies_beside_it(run, tmp_path, go):
    place = tmp_path / "elsewhere"
    base = resolve_model("./model")
    own = run.path / "memorise" / "models" / "memorised"
    known = ModelRef(str(own), "k")
    write(own.with_suffix(".json"), Note("f", known))
    models = [NamedModel("base", "other", base), NamedModel("memorised", "reference", known)]
    write(run.path / "memorise" / "models.json", models)
    go(run, place)
    adapter, model = str(place / "release" / "adapters" / "-f0"), str(tmp_path / "model")
    full = str(place / "memorise" / "models" / "memorised")
    assert [*map(paths, read(place / RELEASED, list[NamedModel]))] == [[model], [model, adapter]]
    assert paths(read(place / "release" / "adapters" / "-f0.json", Note)) == [adapter]
    step = read(place / "release" / "steps" / "0-f0.json", ReleasedStep)
    assert paths(step) == [model, adapter]
    assert paths(read(place / "baselines" / "dpo.json", Merged)) == [model, adapter]
    assert paths(read(place / "memorise" / "models" / "memorised.json", Note)) == [full]
    models = read(place / "memorise" / "models.json", list[NamedModel])
    assert [*map(paths, models)] == [[model], [full]]


def test_a_relative_path_outside_a_run_is_named(run, tmp_path):
    shutil.copy(run.path / "release" / "adapters" / "-f0.json", tmp_path / "note.json")
    with pytest.raises(InputError, match=r"note\.json: found the path \./release/adapters/-f0"):
        read(tmp_path / "note.json", Note)


def test_a_path_is_read_alike_from_anywhere(run, monkeypatch):
    wanted = [str(run.path / "release" / "adapters" / "-f0")]
    monkeypatch.chdir(run.path.parent)
    assert paths(read(Path("run/release/adapters/-f0.json"), Note)) == wanted


def exported(run, folder):
    assert rnr("export", run, "--adapter", folder) == 0
    return load_file(folder / "adapter_model.safetensors")


@pytest.mark.parametrize("go", [moved, copied])
def test_export_takes_the_run_s_own_adapters(run, tmp_path, go, capsys):
    wanted = exported(run.path, tmp_path / "before")
    place = go(run, tmp_path / "elsewhere")
    found = exported(place, tmp_path / "after")
    assert found.keys() == wanted.keys()
    for name in wanted:
        assert np.array_equal(found[name], wanted[name])


@pytest.mark.parametrize("go", [moved, copied])
def test_a_moved_run_trains_nothing_again(run, tmp_path, config, go, monkeypatch):
    base = resolve_model("./model")
    training = Training()
    inputs = [[], base.digest, training.model_dump(mode="json"), config.seed, []]
    note = run.path / "release" / "adapters" / "-f0.json"
    adapter = read(note, Note).made
    write(note, Note(digest(inputs), adapter))
    place = go(run, tmp_path / "elsewhere")

    def trains(*order):
        raise AssertionError("a training was started")

    monkeypatch.setattr(Trainings, "_train", trains)
    trainings = Trainings(Bench(config), place / "release")
    found = trainings.adapter("-f0", [], training, "forget", base)
    assert (found.digest, found.path) == (adapter.digest, str(place / "release/adapters/-f0"))


def spoiled_config(folder):
    path = folder / "adapter_config.json"
    path.write_bytes(path.read_bytes()[:20])


def spoiled_weights(folder):
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"?")


def spoiled_whole(folder):
    shutil.rmtree(folder)


SPOILED = pytest.mark.parametrize("spoil", [spoiled_config, spoiled_weights, spoiled_whole])


@SPOILED
def test_an_adapter_that_is_not_what_was_trained_is_trained_again(
    run, config, spoil, monkeypatch, capsys
):
    base, training = resolve_model("./model"), Training()
    inputs = [[], base.digest, training.model_dump(mode="json"), config.seed, []]
    folder, trained = run.path / "release" / "adapters" / "-f0", []
    known = read(folder.with_suffix(".json"), Note).made
    write(folder.with_suffix(".json"), Note(digest(inputs), known))
    spoil(folder)

    def trains(self, order, storage):
        trained.append(order.name)
        adapter_in(folder, 1)

    monkeypatch.setattr(Trainings, "_train", trains)
    trainings = Trainings(Bench(config), run.path / "release")
    for _ in range(2):
        found = trainings.adapter("-f0", [], training, "forget", base)
        assert found.digest == known.digest
    assert trained == ["-f0"]
    assert "-f0: is not what was trained, or gone; trained anew" in capsys.readouterr().err


@SPOILED
@pytest.mark.parametrize("command", [("export", "--merged", "out"), ("compare", "So I told")])
def test_a_finished_run_s_damaged_adapter_is_used_by_nobody(run, tmp_path, refused, spoil, command):
    run.finish("release", "print")
    spoil(run.path / "release" / "adapters" / "-f0")
    first, *more = command
    line = refused(first, run.path, *more)
    assert line.startswith(f"rnr: {run.path}/release/adapters/-f0/adapter_")
    assert line.endswith(f"go on with --resume {run.path}, which makes it anew")
    assert not (tmp_path / "out").exists()


def test_how_to_go_on_can_be_pasted_where_a_path_has_spaces(run, tmp_path, refused):
    run.finish("release", "print")
    adapter = run.path.rename(tmp_path / "my run") / "release" / "adapters" / "-f0"
    (adapter / "adapter_model.safetensors").unlink()
    line = refused("export", tmp_path / "my run", "--merged", "out")
    assert line.endswith(f"go on with --resume '{tmp_path}/my run', which makes it anew")


def test_every_path_rewritten_to_another_adapter_is_refused(run, refused):
    other = adapter_in(run.path / "release" / "adapters" / "+r1", 2)
    models = run.path / RELEASED
    plain = models.read_text().replace("adapters/-f0", "adapters/+r1")
    run.finish("release", "print")
    models.write_text(plain)
    assert "models.json: is damaged (digest" in refused("export", run.path, "--merged", "out")
    (run.path / "release" / "manifest.json").unlink()  # as in a run that is not finished
    assert f"found weights {other.digest}" in refused("export", run.path, "--merged", "out")


def test_a_result_s_own_checkpoint_is_compared_before_it_is_used(run, tmp_path, refused):
    own = run.path / "icu" / "models" / "icu"
    own.parent.mkdir(parents=True)
    checkpoint(own, 3)
    known = ModelRef(str(own), resolve_model(str(own)).checkpoint_digest)
    write(run.path / "icu" / "models.json", [NamedModel("icu", "step", known)])
    weights = own / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    for command, *more in COMMANDS:
        if "--adapter" not in more:  # of a checkpoint of its own there is none
            line = refused(command, run.path, *more)
            assert f"{own}: found a checkpoint of digest" in line, command
            assert known.checkpoint_digest in line


# Resuming


@pytest.fixture
def resume(config, monkeypatch):
    """Do a pretended recipe up to reveal; returns the stages that ran."""
    ran = []
    monkeypatch.setattr(pipeline, "RECIPES", pretended(ran))
    monkeypatch.setattr(pipeline, "Tracker", lambda *where: FakeTracker())

    def resumed(place):
        ran.clear()
        found = pipeline.open_run(place, config, resume=True)
        pipeline.run_pipeline(config, SimpleNamespace(oracle=""), found, "reveal")
        return list(ran)

    return resumed


@pytest.mark.parametrize("go", [moved, copied])
def test_a_moved_run_goes_on_where_it_was(run, tmp_path, resume, go, capsys):
    assert resume(run.path) == ["reveal"]
    place = go(run, tmp_path / "elsewhere")
    assert resume(place) == []
    assert "reveal: done before" in capsys.readouterr().err


def test_a_run_is_not_gone_on_with_from_other_weights(run, tmp_path, resume):
    place = moved(run, tmp_path / "elsewhere")
    shutil.rmtree(tmp_path / "model")
    checkpoint(tmp_path / "model", 5)
    with pytest.raises(InputError) as refused:
        resume(place)
    known = json.loads((place / "base.json").read_text())["checkpoint_digest"]
    now = resolve_model("./model").checkpoint_digest
    assert str(refused.value) == (
        f"{place}: found {tmp_path / 'model'} with digest {now}; expected the run's base "
        f"checkpoint, digest {known}"
    )


def test_a_run_is_not_gone_on_with_without_its_base(run, tmp_path, resume):
    shutil.rmtree(tmp_path / "model")
    with pytest.raises(InputError, match=r"\./model: no such folder"):
        resume(moved(run, tmp_path / "elsewhere"))


# The base, when a finished run is used


@pytest.fixture
def refused(capsys):
    def sentence(*arguments):
        assert rnr(*arguments) == 2
        [line] = capsys.readouterr().err.splitlines()
        return line

    return sentence


COMMANDS = [("export", "--adapter", "out"), ("export", "--merged", "out"), ("compare", "So I")]


@pytest.mark.parametrize(("command", "more"), [(first, rest) for first, *rest in COMMANDS])
def test_a_finished_run_without_its_base_is_refused(run, tmp_path, refused, command, more):
    place = moved(run, tmp_path / "elsewhere")
    model = tmp_path / "model"
    shutil.rmtree(model)
    line = refused(command, place, *more)
    assert line.startswith(f"rnr: {place}: found no base checkpoint at {model}, nor elsewhere (")
    checkpoint(model, 5)
    line = refused(command, place, *more)
    assert f"found {model} with digest" in line and "expected the run's base checkpoint" in line
    assert not (tmp_path / "out").exists()


def test_a_base_that_lies_elsewhere_now_is_found_by_the_config_and_its_digest(run, tmp_path):
    note = run.path / "base.json"
    content = json.loads(note.read_text())
    gone = "/once/upon/a/time"
    for path in (note, run.path / RELEASED):
        path.write_text(path.read_text().replace(content["checkpoint"], gone))
    found = open_result(run.path)
    assert found.before.checkpoint == found.after.checkpoint == str(tmp_path / "model")
    assert json.loads(note.read_text())["checkpoint"] == str(tmp_path / "model")


def test_a_run_without_a_note_of_its_base_is_refused(run, refused):
    (run.path / "base.json").unlink()
    assert "base.json: not there" in refused("export", run.path, "--adapter", "out")


def test_a_path_that_leaves_the_run_is_refused(run, refused):
    path = run.path / RELEASED
    path.write_text(path.read_text().replace("./release/adapters/-f0", "./release/../../../x"))
    line = refused("export", run.path, "--adapter", "out")
    assert "found the path ./release/../../../x, which leaves the run directory" in line
