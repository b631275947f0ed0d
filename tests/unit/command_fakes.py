"""The command in this process, and a small config with its texts and its checkpoint."""

import random

import yaml

from benchmarks.fault_parts.tiny import Kind, write
from rnr_dist.commands.cli import app, guarded

LLAMA = Kind(
    "Llama",
    "llama",
    {
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
    },
)
CONFIG = {
    "name": "small",
    "model": "./model",
    "engines": {"count": 1},
    "task": {
        "challenging": {
            "source": "challenging.txt",
            "splits": {"reveal": 1, "train": 1, "search": 1, "final": 1},
        },
        "ordinary": {"source": "ordinary.txt", "splits": {"retain": 1, "final": 1}},
        "in_domain": [
            {"source": "inside.txt", "splits": {"retain": 1, "search": 1, "final": 1}},
        ],
        "out_of_domain": [{"source": "outside.txt", "splits": {"search": 1, "final": 1}}],
    },
}


def lines(count, seed):
    draw = random.Random(seed)
    return [" ".join(f"w{draw.randrange(10**6)}" for _ in range(9)) for _ in range(count)]


def rnr(*arguments):
    return guarded(lambda: app([str(argument) for argument in arguments], standalone_mode=False))


def furnish(folder):
    """Write `config.yaml`, the texts that it names and a checkpoint of two tiny layers."""
    for number, name in enumerate(("challenging", "ordinary", "inside", "outside")):
        (folder / f"{name}.txt").write_text("\n\n".join(lines(60, number)))
    write(LLAMA, folder / "model")
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))
