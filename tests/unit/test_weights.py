"""Folders that engines load: whole, shared, and only the most recent of them."""

import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from rnr_dist.errors import InputError
from rnr_dist.types import ModelRef
from rnr_dist.weights import node_cache
from rnr_dist.weights.checkpoints import checkpoint_digest, require_content
from rnr_dist.weights.composition import checkpoint_shapes, load_adapter, save_adapter, stack
from rnr_dist.weights.node_cache import adapter_folder, clean, in_use, leave, weights_folder


@pytest.fixture(scope="module")
def models(tmp_path_factory, tiny_llama):
    """Five composed models, of two terms each: ranks 2 and 3."""
    folder = tmp_path_factory.mktemp("models")
    checkpoint = tiny_llama(folder / "base")
    base = ModelRef(str(checkpoint), checkpoint_digest(checkpoint))
    shapes = {m: s for m, s in checkpoint_shapes(checkpoint).items() if "o_proj" in m}
    terms = [
        save_adapter(
            folder / str(rank),
            {m: (torch.randn(rank, i), torch.randn(o, rank)) for m, (o, i) in shapes.items()},
            alpha=4,
            base=base.checkpoint,
            trained_on=base.digest,
            side="forget",
        )
        for rank in (2, 3)
    ]
    return [base.plus(-weight, terms[0]).plus(weight, terms[1]) for weight in (1, 2, 3, 4, 5)]


def test_an_adapter_of_all_terms_has_their_sum(models, tmp_path):
    with adapter_folder(models[0], 8, 3, tmp_path) as folder:
        found = load_adapter(folder)
    for module, (a, b) in stack(models[0].terms).items():
        down, up, scaling = found[module]
        torch.testing.assert_close(scaling * up @ down, b @ a)


def test_more_rank_than_the_engine_holds_is_refused_and_leaves_nothing(models, tmp_path):
    with (
        pytest.raises(InputError, match=r"engines\.lora_rank: found 4, expected at least 5"),
        adapter_folder(models[0], 4, 3, tmp_path),
    ):
        pass
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


@pytest.mark.parametrize("kind", ["adapter", "checkpoint"])
def test_only_the_most_recent_folders_stay(models, tmp_path, kind):
    def path(model):
        if kind == "adapter":
            return adapter_folder(model, 8, 3, tmp_path)
        return weights_folder(model, tmp_path)

    for model in (models[0], models[1], models[2], models[0], models[3]):
        with path(model) as folder:
            assert (folder.name, folder.is_dir()) == (model.digest, True)
    kept = {path.name for path in tmp_path.iterdir() if path.is_dir()}
    assert kept == {models[number].digest for number in (2, 0, 3)}


# Identity


def q_proj(folder):
    weights = load_file(folder / "model.safetensors")  # mapped, so it would change with the file
    return weights["model.layers.0.self_attn.o_proj.weight"].clone()


def spoil_by_the_base(folder, model):
    for file in ("model.safetensors", "config.json"):
        shutil.copy(f"{model.checkpoint}/{file}", folder / file)


def spoil_by_a_bit(folder, model):
    path = folder / "model.safetensors"
    with path.open("r+b") as handle:
        handle.seek(-1, os.SEEK_END)
        last = handle.read(1)
        handle.seek(-1, os.SEEK_END)
        handle.write(bytes([last[0] ^ 1]))


def spoil_by_taking(folder, model):
    (folder / "config.json").unlink()


def spoil_by_adding(folder, model):
    (folder / "adapter_config.json").write_text("{}")


def spoil_the_note(folder, model):
    folder.with_name(f"{folder.name}.json").write_text("{")


SPOILS = [
    spoil_by_the_base,
    spoil_by_a_bit,
    spoil_by_taking,
    spoil_by_adding,
    spoil_the_note,
]


@pytest.mark.parametrize("spoil", SPOILS)
def test_a_merged_copy_that_is_not_what_was_written_is_merged_again(models, tmp_path, spoil):
    with weights_folder(models[0], tmp_path) as folder:
        wanted = q_proj(folder)
        names = sorted(path.name for path in folder.iterdir())
    spoil(folder, models[0])
    with weights_folder(models[0], tmp_path) as again:
        assert torch.equal(q_proj(again), wanted)
        assert sorted(path.name for path in again.iterdir()) == names


def test_a_merged_copy_that_is_whole_is_taken_as_it_is(models, tmp_path, monkeypatch):
    with weights_folder(models[0], tmp_path) as folder:
        written = (folder / "model.safetensors").stat().st_mtime_ns
    with weights_folder(models[0], tmp_path) as folder:
        assert (folder / "model.safetensors").stat().st_mtime_ns == written


def test_a_checkpoint_that_was_edited_in_place_is_used_by_nobody(tmp_path, models):
    base = tmp_path / "base"
    shutil.copytree(models[0].checkpoint, base)
    bare = ModelRef(str(base), models[0].checkpoint_digest)
    composed = ModelRef(str(base), bare.checkpoint_digest, models[0].terms)
    spoil_by_a_bit(base, bare)
    message = (
        r"base: found a checkpoint of digest \w+; expected \w+: its config or its weights were"
    )
    for model in (bare, composed):
        with (
            pytest.raises(InputError, match=message),
            weights_folder(model, tmp_path / "cache"),
        ):
            pass
    (base / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"base: found no model\.safetensors; expected the checkp"):
        require_content(bare)


# Room, and what is left


def free(monkeypatch, bytes_free):
    monkeypatch.setattr(
        node_cache.shutil, "disk_usage", lambda place: SimpleNamespace(free=bytes_free())
    )


def test_without_room_for_one_copy_it_is_refused_before_anything_is_written(
    models, tmp_path, monkeypatch
):
    free(monkeypatch, lambda: 1000)
    with (
        pytest.raises(
            InputError, match=r"found 0\.0 GiB free; expected 0\.1 GiB for a merged copy"
        ),
        weights_folder(models[0], tmp_path),
    ):
        pass
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_older_copies_go_before_room_is_short(models, tmp_path, monkeypatch):
    for model in models[:3]:
        with weights_folder(model, tmp_path):
            pass
    held = lambda: sum(path.is_dir() for path in tmp_path.iterdir())  # noqa: E731
    free(monkeypatch, lambda: 2**40 if held() < 2 else 0)
    with weights_folder(models[3], tmp_path) as folder:
        assert folder.is_dir()
    kept = {path.name for path in tmp_path.iterdir() if path.is_dir()}
    assert kept == {models[2].digest, models[3].digest}


def test_what_was_merged_goes_with_its_last_user(models, tmp_path):
    with weights_folder(models[0], tmp_path):
        pass
    other = subprocess.Popen(
        [sys.executable, "-c", USER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert other.stdout.readline() == b"here\n"
    assert leave(tmp_path) == 0
    assert (tmp_path / models[0].digest).is_dir(), "another process uses it"
    assert clean(tmp_path, dry=False) is None
    other.kill()
    other.wait()
    assert not in_use(tmp_path), "its mark went with it"
    size = clean(tmp_path, dry=True)
    assert size > 1000 and (tmp_path / models[0].digest).is_dir()
    assert clean(tmp_path, dry=False) == size
    assert not tmp_path.exists()
    tmp_path.mkdir()
    with weights_folder(models[0], tmp_path):
        pass
    assert leave(tmp_path) > 1000
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


USER = """
import sys
from pathlib import Path
from rnr_dist.weights import node_cache
node_cache._mark(Path(sys.argv[1]))
print("here", flush=True)
sys.stdin.read()
"""


def test_a_cache_that_others_may_write_to_is_refused(models, tmp_path):
    cache = tmp_path / "cache"
    cache.mkdir()
    cache.chmod(0o777)
    with (
        pytest.raises(InputError, match="cache: found a folder that others may write to"),
        weights_folder(models[0], cache),
    ):
        pass
    cache.rmdir()
    (tmp_path / "elsewhere").mkdir()
    cache.symlink_to(tmp_path / "elsewhere")
    with (
        pytest.raises(InputError, match="cache: found something that is no folder"),
        weights_folder(models[0], cache),
    ):
        pass
    assert not list((tmp_path / "elsewhere").iterdir())
