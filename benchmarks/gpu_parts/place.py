"""Where the parts for a GPU work, and on which models: random weights of real shapes.

In: a folder. Out: checkpoints in bfloat16. Invariant: with `shrink` everything has two layers and
a width of 64, and runs on a CPU; no function is another for it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.fault_parts.tiny import write_letters
from rnr_dist.types import ModelRef
from rnr_dist.weights.checkpoints import checkpoint_digest

SHAPES = Path(__file__).resolve().parents[2] / "tests" / "data" / "models"
SMALL = {
    "llama3_8b": {
        **{"vocab_size": 512, "hidden_size": 64, "intermediate_size": 128},
        **{"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2},
        **{"bos_token_id": 1, "eos_token_id": 1},
    },
    "gpt_neo_1b": {
        **{"vocab_size": 512, "hidden_size": 64, "num_layers": 2, "num_heads": 4},
        **{"attention_types": [[["global", "local"], 1]], "max_position_embeddings": 256},
        **{"bos_token_id": 1, "eos_token_id": 1},
    },
}


class Skipped(Exception):
    """A part that cannot run here; its text says why."""


@dataclass(frozen=True)
class Place:
    """Where models and runs go. shrink: tiny models on a CPU."""

    folder: Path
    shrink: bool = False

    @property
    def device(self) -> str:
        return "cpu" if self.shrink else "cuda"

    @property
    def gpus(self) -> int:
        return 0 if self.shrink else 1

    def model(self, name: str) -> ModelRef:
        """A checkpoint of a shape in `tests/data/models`, drawn once."""
        folder = self.folder / name
        if not (folder / "config.json").exists():
            self._draw(name, folder)
        return ModelRef(str(folder), checkpoint_digest(folder))

    def _draw(self, name: str, folder: Path) -> None:
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM

        shape: dict[str, Any] = json.loads(
            (SHAPES / name / "config.json").read_text(encoding="utf-8")
        )
        shape |= SMALL[name] if self.shrink else {}
        config = AutoConfig.for_model(shape.pop("model_type"), **shape)
        torch.manual_seed(0)
        with torch.device(self.device):
            model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        model.save_pretrained(folder, max_shard_size="4GB")
        write_letters(folder)


def seconds_of(work: Callable[[], object], device: str) -> float:
    """Wall time of `work`, to its end on the device."""
    import torch

    began = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def peak_flops(place: Place) -> float:
    """Floating-point operations a second of dense bfloat16 products here, the best of some."""
    import torch

    size = 256 if place.shrink else 8192
    one = torch.randn(size, size, device=place.device, dtype=torch.bfloat16)
    best = min(seconds_of(lambda: one @ one, place.device) for _ in range(8))
    return 2 * size**3 / best
