"""The table of docs/cost.md, from the functions that `rnr check` uses: python docs/cost_table.py"""

from __future__ import annotations

from pathlib import Path

from rnr_dist.config.engines import Engines
from rnr_dist.config.training import Training, Workers
from rnr_dist.machine.cost import (
    GIB,
    engine_memory,
    generating_seconds,
    training_memory,
    training_seconds,
)
from rnr_dist.weights.shape import shape_of, trained_of

MODELS = Path(__file__).parents[1] / "tests" / "data" / "models"
NAMES = {
    "smollm2_135m": "SmolLM2 135M",
    "gpt_neo_1b": "GPT-Neo 1.3B",
    "mistral_7b": "Mistral 7B",
    "llama3_8b": "Llama 3 8B",
}
HEAD = (
    *("model", "engine", "LoRA", "all weights, 1 GPU", "each of 2", "each of 8"),
    *("merged copy", "1M trained tokens", "1M generated tokens"),
)
LORA = Training(micro_batch_tokens=8192)
FULL = Training(micro_batch_tokens=8192, parameters="full")
ENGINES = Engines(count=1, gpus_each=1, max_num_seqs=1024)
MILLION = 1_000_000


def table() -> str:
    """Markdown: a row a model."""
    rows = [HEAD, ["---"] * len(HEAD), *(row(folder, name) for folder, name in NAMES.items())]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def row(folder: str, name: str) -> list[str]:
    """GiB on each GPU of 80 or so, GiB on disk, minutes on one GPU."""
    shape = shape_of(MODELS / folder)
    part, whole = (trained_of(MODELS / folder, training) for training in (LORA, FULL))
    one = Workers(gpus_each=1)
    held = [
        engine_memory(shape, ENGINES),
        training_memory(shape, part, LORA, one),
        training_memory(shape, whole, FULL, one),
    ]
    for count in (2, 8):
        many = Workers(gpus_each=1, count=count, zero_stage=2)
        held.append(training_memory(shape, whole, FULL, many))
    minutes = (
        training_seconds(shape, MILLION, LORA, one) / 60,
        generating_seconds(shape, MILLION, ENGINES) / 60,
    )
    return [
        name,
        *(f"{one.total / GIB:.0f} GiB" for one in held),
        f"{2 * shape.parameters / GIB:.1f} GiB",
        *(f"{value:.1f} min" for value in minutes),
    ]


if __name__ == "__main__":
    print(table())
