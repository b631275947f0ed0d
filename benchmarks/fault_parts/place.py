"""The valid place that faults spoil: configs, texts of every kind of file, a tiny model, a run.

In: an empty folder. Out: the same with all of them. Invariant: what lies there is accepted by every
command, and it is the same at each writing, so that a place in a file names the same byte.
"""

from __future__ import annotations

import csv
import io
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import yaml

WORDS = [f"w{number}" for number in range(2, 256)]
HIDDEN, INNER, LAYERS, HEADS, GROUPS = 32, 48, 2, 4, 2
LONGEST = 2048  # tokens that the model takes

SPLITS = {"reveal": 1, "train": 1, "search": 1, "final": 1}
REVEAL: dict[str, Any] = {
    "name": "small",
    "seed": 3,
    "model": "./model",
    "task": {
        "name": "toxicity",
        "challenging": {"source": "challenging.jsonl", "splits": SPLITS, "limit": {"final": 20}},
        "ordinary": {"source": "ordinary.csv", "splits": {"retain": 1, "final": 1}},
        "in_domain": [
            {"source": "inside.parquet", "splits": {"retain": 1, "search": 1, "final": 1}}
        ],
        "out_of_domain": [{"source": "outside.txt", "splits": {"search": 1, "final": 1}}],
    },
    "engines": {"count": 1, "cpus_each": 1, "kv_cache_gib": 0.01, "max_model_len": 256},
    "workers": {"count": 1, "cpus_each": 1},
    "perplexity": {"window": 128, "stride": 64},
    "reveal": {"budget": 8, "arms": 20, "hidden": 16, "training_steps": 50, "alpha": 0.5},
    "release": {
        "forget": {"epochs": 1, "batch_size": 4, "learning_rate": 0.002},
        "mu0": {"low": 1, "high": 2, "trials": 2},
    },
    "evaluate": {"sampling": {"n": 3, "max_tokens": 12, "temperature": 1.0}},
}
FORGET: dict[str, Any] = {
    "name": "known",
    "seed": 3,
    "model": "./model",
    "task": {
        "name": "extraction",
        "forget": {"source": "forget.jsonl"},
        "pool": {"source": "pool.jsonl"},
        "unseen": {"source": "unseen.npy"},
        "tuning": {"source": "tuning.csv"},
        "general": [
            {"source": "outside.txt", "splits": {"retain": 1, "search": 1, "final": 1}},
        ],
        "prefix_tokens": 8,
        "max_tokens": 24,
        "n": 4,
        "sampled": {"n": 2, "max_tokens": 8},
        "choices": "choices.jsonl",
        "dialogues": None,
    },
    "engines": {"count": 1, "cpus_each": 1, "kv_cache_gib": 0.01, "max_model_len": 256},
    "workers": {"count": 1, "cpus_each": 1},
    "perplexity": {"window": 128, "stride": 64},
    "memorise": {"repeats": 2, "rehearse": 2, "training": {"epochs": 2, "learning_rate": 0.0002}},
    "stopping": {"epochs": 3},
}
STUDY = {"study": "seeds", "config": "config.yaml", "until": "evaluate", "seeds": [0, 1]}


def furnish(folder: Path) -> None:
    """Write everything below `folder`; commands are called from there."""
    for name, content in {"config": REVEAL, "icu": FORGET, "study": STUDY}.items():
        (folder / f"{name}.yaml").write_text(
            yaml.safe_dump(content, sort_keys=False), encoding="utf-8"
        )
    _texts(folder)
    _sequences(folder)
    write_model(folder / "model")


def lines(count: int, seed: int, words: int = 12) -> list[str]:
    """Texts of the model's words, no two alike."""
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=words)) for _ in range(count)]


def _texts(folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [json.dumps({"text": text}) for text in lines(40, 1)]
    (folder / "challenging.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows([["text"], *([one] for one in lines(40, 2))])
    (folder / "ordinary.csv").write_text(table.getvalue(), encoding="utf-8")
    pq.write_table(pa.table({"text": lines(40, 3, 40)}), folder / "inside.parquet")
    (folder / "outside.txt").write_text("\n\n".join(lines(40, 4, 40)) + "\n", encoding="utf-8")
    asked = [
        {"question": one, "choices": lines(2, number, 3), "answer": number % 2}
        for number, one in enumerate(lines(6, 5))
    ]
    (folder / "choices.jsonl").write_text(
        "".join(f"{json.dumps(one)}\n" for one in asked), encoding="utf-8"
    )


def _sequences(folder: Path) -> None:
    draw = np.random.default_rng(6)
    rows = [json.dumps({"text": text}) for text in lines(8, 7, 24)]
    (folder / "forget.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    ids = draw.integers(2, len(WORDS), size=(32, 24))
    rows = [json.dumps({"token_ids": row.tolist()}) for row in ids[:24]]
    (folder / "pool.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    np.save(folder / "unseen.npy", ids[24:])
    numbered = [["doc_id", "text"], *([str(i), text] for i, text in enumerate(lines(4, 8, 24)))]
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows(numbered)
    (folder / "tuning.csv").write_text(table.getvalue(), encoding="utf-8")


def write_model(folder: Path, seed: int = 0) -> None:
    """A random Llama of two layers with its tokenizer of words, as transformers saves them."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": len(WORDS) + 2,
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": GROUPS,
        "max_position_embeddings": LONGEST,
        "tie_word_embeddings": True,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "bos_token_id": None,
        "eos_token_id": 1,
        "dtype": "float32",
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    draw = np.random.default_rng(seed)
    narrow = HIDDEN * GROUPS // HEADS
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens": (len(WORDS) + 2, HIDDEN)}
    shapes["model.norm"] = (HIDDEN,)
    for layer in range(LAYERS):
        inside = f"model.layers.{layer}"
        shapes |= {f"{inside}.self_attn.{one}_proj": (HIDDEN, HIDDEN) for one in "qo"}
        shapes |= {f"{inside}.self_attn.{one}_proj": (narrow, HIDDEN) for one in "kv"}
        shapes |= {f"{inside}.mlp.{one}_proj": (INNER, HIDDEN) for one in ("gate", "up")}
        shapes |= {f"{inside}.mlp.down_proj": (HIDDEN, INNER)}
        shapes |= {f"{inside}.{one}_layernorm": (HIDDEN,) for one in ("input", "post_attention")}
    weights = {
        f"{name}.weight": np.ones(shape, np.float32)
        if len(shape) == 1
        else draw.normal(0, 0.2, shape).astype(np.float32)
        for name, shape in shapes.items()
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    _tokenizer(folder)


def _tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    known = {"<unknown>": 0, "<end>": 1} | {word: 2 + i for i, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(known, unk_token="<unknown>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(["<unknown>", "<end>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<end>",
        "unk_token": "<unknown>",
        "model_max_length": LONGEST,
    }
    (folder / "tokenizer_config.json").write_text(
        json.dumps(settings, indent=2) + "\n", encoding="utf-8"
    )


def released_run(place: Path, name: str = "run") -> Path:
    """A run that has released one adapter, beside a furnished place's model."""
    import torch

    from rnr_dist.config.file import load_config
    from rnr_dist.run.directory import RunDir, write
    from rnr_dist.types import NamedModel
    from rnr_dist.weights.checkpoints import keep_base, resolve_model
    from rnr_dist.weights.composition import save_adapter

    config = load_config(place / "config.yaml", [f"model={place / 'model'}"])
    run = RunDir.open(place / name, config.content(), resume=False)
    base = resolve_model(str(place / "model"))
    keep_base(run.path, base)
    torch.manual_seed(1)
    factors = {
        f"model.layers.{layer}.self_attn.q_proj": (
            torch.randn(2, HIDDEN),
            torch.randn(HIDDEN, 2) / 9,
        )
        for layer in range(LAYERS)
    }
    folder = run.path / "release" / "adapters" / "-f0"
    adapter = save_adapter(
        folder, factors, alpha=2, base=base.checkpoint, trained_on=base.digest, side="forget"
    )
    models = [
        NamedModel("base", "reference", base),
        NamedModel("-f0", "step", base.plus(-1.0, adapter)),
    ]
    write(run.path / "release" / "models.json", models)
    run.finish("release", "of this config")
    return run.path
