"""The GPU script's LoRA training with a tiny model on a CPU worker: figures of a real loop."""

import json

from benchmarks.gpu_parts.place import Place
from benchmarks.gpu_parts.trainings import STEPS, lora


def test_a_training_gives_speed_share_and_memory(ray_cluster, tmp_path):
    tokens = 4 * 24
    found = lora(Place(tmp_path, shrink=True))
    assert (found["steps"], found["tokens_a_step"]) == (STEPS, tokens)
    assert found["tokens_per_second"] > 0 and found["gib"] > 0.1
    assert 0 <= found["share"] < 1
    [summary] = tmp_path.glob("trained-*/training.json")
    told = json.loads(summary.read_text(encoding="utf-8"))
    assert told["tokens"] == STEPS * tokens
