"""The script for GPUs, with tiny models on a CPU: its functions are those that a GPU runs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import gpu
from benchmarks.gpu_parts.demo import ON_GPU
from benchmarks.gpu_parts.place import Place, peak_flops
from benchmarks.gpu_parts.trainings import _figures, multiplied
from rnr_dist.commands.check import Described, told_of
from rnr_dist.config.file import load_config

ROOT = Path(__file__).parents[2]


def script(*words):
    return subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), *words],
        env={**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )


def test_without_a_gpu_it_is_one_sentence(capsys, monkeypatch):
    monkeypatch.setattr(gpu, "gpu_here", lambda: False)
    assert gpu.main([]) == 2
    told = capsys.readouterr()
    assert told.err == f"{gpu.NO_GPU}\n" and told.out == ""


def test_the_engine_s_parts_run_small(tmp_path):
    done = script("exchange", "greedy", "--shrink", "--folder", str(tmp_path))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["skipped"] == {}
    assert found["greedy"]["alike"] == found["greedy"]["prompts"] == 4
    assert found["greedy"]["tokens"] > 8
    reload = found["exchange"]["reload"]
    assert reload["exchange_seconds"] > 0 and reload["tokens_per_second"] > 0


def test_a_part_that_fails_is_told_and_the_others_go_on(monkeypatch, capsys, tmp_path):
    def pretended(name, place):
        if name == "lora":
            return {name: {"failed": "exit code 9"}}
        if name == "demo":
            return {"skipped": {name: "found no package gguf"}}
        return {name: {"gib": 1.5}}

    monkeypatch.setattr(gpu, "apart", pretended)
    assert gpu.main(["--shrink", "--folder", str(tmp_path)]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["lora"] == {"failed": "exit code 9"} and found["icu"] == {"gib": 1.5}
    assert found["skipped"] == {"demo": "found no package gguf"}


def test_a_process_that_ends_badly_is_a_part_that_failed(tmp_path):
    (tmp_path / "llama3_8b").write_text("no folder")
    found = gpu.apart("exchange", Place(tmp_path, shrink=True))
    assert found == {"exchange": {"failed": "exit code 1"}}


def test_the_demo_fits_one_gpu_by_the_sum_of_places():
    config = load_config(ROOT / "configs" / "demo.yaml", list(ON_GPU))
    lines = told_of(config, "demo", Described(ROOT / "configs" / "clusters" / "gpus_1.yaml"))
    assert any("generators 2 x 0.3 GPU" in line for line in lines)
    assert any("training worker(s) 1 x 1 GPU" in line for line in lines)


def test_models_have_the_shape_and_the_number_format(tmp_path):
    place = Place(tmp_path, shrink=True)
    for name, tied in (("llama3_8b", False), ("gpt_neo_1b", True)):
        ref = place.model(name)
        assert place.model(name) == ref
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(ref.checkpoint)
        assert model.dtype == torch.bfloat16
        table = model.get_input_embeddings().weight.numel()
        weights = sum(value.numel() for value in model.parameters())
        assert multiplied(ref) == pytest.approx(weights - (0 if tied else table), rel=0.01)


def test_speed_leaves_out_the_first_step_and_share_is_of_the_peak(tmp_path, monkeypatch):
    from benchmarks.gpu_parts import trainings

    place = Place(tmp_path, shrink=True)
    base = place.model("llama3_8b")
    monkeypatch.setattr(trainings, "peak_flops", lambda place: 1e9)
    # The first step of 100 tokens takes 10 s, each later one 1 s.
    reports = [{"tokens_per_second": 100 * n / (9 + n)} for n in (1, 2, 3, 4)]
    found = _figures(place, base, {"reports": reports, "gib": 2.0}, 4, 100)
    assert found["tokens_per_second"] == 100
    assert found["share"] == pytest.approx(100 * 4 * multiplied(base) / 1e9, abs=1e-3)


def test_the_peak_is_of_products():
    assert 1e6 < peak_flops(Place(Path(), shrink=True)) < 1e14
