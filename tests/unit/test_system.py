"""System metrics: what is read is told, what cannot be read ends nothing."""

import threading

import pytest

from rnr_dist.run.system import figures, gpu_figures, watched


@pytest.fixture
def smi(tmp_path, monkeypatch):
    """Let `nvidia-smi` say, and end with, something."""

    def says(text, code=0):
        script = tmp_path / "nvidia-smi"
        script.write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\nexit {code}\n")
        script.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    return says


def test_memory_and_use_of_each_gpu_by_the_names_of_mlflow_s_page(smi, tmp_path):
    smi("0, 20480, 81920, 93\n1, 0, 81920, 0")
    assert gpu_figures() == {
        "gpu_0_memory_usage_megabytes": 20480,
        "gpu_0_memory_usage_percentage": 25,
        "gpu_0_utilization_percentage": 93,
        "gpu_1_memory_usage_megabytes": 0,
        "gpu_1_memory_usage_percentage": 0,
        "gpu_1_utilization_percentage": 0,
    }
    assert figures(tmp_path)["system/gpu_0_memory_usage_megabytes"] == 20480


@pytest.mark.parametrize(("text", "code"), [("No devices were found", 6), ("0, [N/A], 1, 2", 0)])
def test_a_gpu_that_says_nothing_is_left_out(smi, text, code):
    smi(text, code)
    assert gpu_figures() == {}


def test_figures_come_while_the_block_lasts_and_end_with_it(tmp_path):
    heard, enough = [], threading.Event()

    def listener(told, number):
        heard.append((number, told))
        if number == 2:
            enough.set()

    with watched(listener, tmp_path, seconds=0.01):
        assert enough.wait(30)
    count = len(heard)
    assert [number for number, _ in heard] == list(range(count))
    for name in ("cpu_utilization_percentage", "system_memory_usage_megabytes", "run_memory_gib"):
        assert heard[0][1][f"system/{name}"] >= 0
    assert not [t for t in threading.enumerate() if t.name == "system metrics"]
