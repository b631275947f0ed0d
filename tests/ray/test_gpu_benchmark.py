"""The GPU script's trainings with tiny models on CPU workers: figures of real loops."""

import json

import pytest

from benchmarks.gpu_parts.place import Place
from benchmarks.gpu_parts.trainings import STEPS, icu, lora


@pytest.mark.parametrize(("part", "tokens"), [(lora, 4 * 24), (icu, 4 * 5 * 24)])
def test_a_training_gives_speed_share_and_memory(ray_cluster, tmp_path, part, tokens):
    found = part(Place(tmp_path, shrink=True))
    assert (found["steps"], found["tokens_a_step"]) == (STEPS, tokens)
    assert found["tokens_per_second"] > 0 and found["gib"] > 0.1
    assert found["share"] >= 0 and found["peak_tflops"] > 0  # of a CPU they say little
    [summary] = tmp_path.glob("trained-*/training.json")
    told = json.loads(summary.read_text(encoding="utf-8"))
    assert told["tokens"] == STEPS * tokens
    if part is icu:  # every term of Eq. 6, in every epoch
        assert all(row["terms"].keys() == {"forget", "learn", "kl"} for row in told["epochs"][1:])
