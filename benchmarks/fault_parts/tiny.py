"""Tiny random checkpoints of the architectures that people have, as their files really are.

In: a folder. Out: a checkpoint with two layers, 32 wide, and a tokenizer. Invariant: weights are
large enough that embeddings, windows and deltas show in the logits; the same each time.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

VOCABULARY = 97
WINDOW = 8
PLACES = 512
ROTARY = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": PLACES,
}
OWN_HEADS = {**ROTARY, "head_dim": 8}
PLAIN = {key: value for key, value in ROTARY.items() if key != "num_key_value_heads"}
OPT = {
    "hidden_size": 32,
    "ffn_dim": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": PLACES,
}


@dataclass(frozen=True)
class Kind:
    """One row of the matrix: a model type of transformers with its sizes.

    targets: its layers that are trained. prefix: that its files leave out. shard: their size.
    """

    name: str
    model_type: str
    sizes: dict[str, Any] = field(hash=False)
    targets: tuple[str, ...] = ("q_proj", "v_proj")
    prefix: str = ""
    shard: str = "5GB"


KINDS = (
    Kind("Llama", "llama", ROTARY),
    Kind("Llama, in shards", "llama", ROTARY, shard="20KB"),
    Kind("Llama, tied head", "llama", {**ROTARY, "tie_word_embeddings": True}),
    Kind("Mistral, short window", "mistral", {**ROTARY, "sliding_window": WINDOW}),
    Kind("Qwen2", "qwen2", ROTARY),
    Kind("Qwen3", "qwen3", OWN_HEADS),
    Kind("Gemma", "gemma", OWN_HEADS),
    Kind("Gemma 2", "gemma2", {**OWN_HEADS, "sliding_window": WINDOW}),
    Kind(
        "Gemma 2, logits uncapped",
        "gemma2",
        {**OWN_HEADS, "sliding_window": WINDOW, "final_logit_softcapping": None},
    ),
    Kind(
        "Gemma 3",
        "gemma3_text",
        {
            **OWN_HEADS,
            "sliding_window": WINDOW,
            "layer_types": ["sliding_attention", "full_attention"],
        },
    ),
    Kind("Phi-3", "phi3", {**ROTARY, "pad_token_id": 0}, ("qkv_proj", "o_proj")),
    Kind(
        "GPT-2",
        "gpt2",
        {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": PLACES},
        ("c_attn", "c_proj"),
        prefix="transformer.",
    ),
    Kind("GPT-NeoX (Pythia)", "gpt_neox", PLAIN, ("query_key_value", "dense")),
    Kind(
        "GPT-Neo",
        "gpt_neo",
        {
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "window_size": WINDOW,
            "max_position_embeddings": PLACES,
        },
    ),
    Kind("OPT", "opt", {**OPT, "word_embed_proj_dim": 32}),
    Kind(
        "OPT-350m",
        "opt",
        {**OPT, "word_embed_proj_dim": 16, "do_layer_norm_before": False},
        prefix="model.",
    ),
    Kind(
        "Falcon",
        "falcon",
        {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "alibi": False},
        ("query_key_value", "dense"),
    ),
    Kind(
        "BLOOM",
        "bloom",
        {"hidden_size": 32, "n_layer": 2, "n_head": 4},
        ("query_key_value", "dense"),
        prefix="transformer.",
    ),
    Kind(
        "Granite",
        "granite",
        {**ROTARY, "embedding_multiplier": 3.0, "logits_scaling": 2.0, "residual_multiplier": 0.5},
    ),
    Kind(
        "MiniCPM3",
        "minicpm3",
        {
            **ROTARY,
            "num_key_value_heads": 4,
            "q_lora_rank": 16,
            "kv_lora_rank": 16,
            "qk_nope_head_dim": 4,
            "qk_rope_head_dim": 4,
            "v_head_dim": 8,
            "scale_emb": 12,
            "dim_model_base": 16,
        },
        ("q_b_proj", "o_proj"),
    ),
    Kind("Falcon-H1", "falcon_h1", {**OWN_HEADS, "mamba_d_ssm": 32, "mamba_n_heads": 4}),
)


def write(kind: Kind, folder: Path) -> Path:
    """The checkpoint of a kind, with a tokenizer of as many words as it has embeddings."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    ends = {"bos_token_id": 1, "eos_token_id": 1, "initializer_range": 0.2}
    sizes = {"vocab_size": VOCABULARY, **ends, **kind.sizes}
    config = AutoConfig.for_model(kind.model_type, **sizes)
    model: Any = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.dim() == 1 and "norm" not in name and "ln_" not in name:
                value.normal_(std=0.1)  # biases are zeros otherwise
    model.save_pretrained(folder, max_shard_size=kind.shard)
    if kind.prefix:
        rename(folder, lambda key: key.removeprefix(kind.prefix))
    write_letters(folder)
    return folder


def rename(folder: Path, name: Callable[[str], str]) -> None:
    """Call the weights of a checkpoint of one file otherwise."""
    from safetensors.torch import load_file, save_file

    weights = {name(key): value for key, value in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def write_letters(folder: Path) -> None:
    """A tokenizer of one token a byte, of those that English needs, as all BPE tokenizers begin."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet(), key=lambda one: (ord(one) > 126, one))
    known = ["<unknown>", "<end>", "\u0120", *letters][:VOCABULARY]
    words = {letter: number for number, letter in enumerate(known)}
    tokenizer = Tokenizer(models.BPE(words, [], unk_token="<unknown>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unknown>", eos_token="<end>"
    ).save_pretrained(folder)


def write_tokenizer(folder: Path, before: str = "", behind: str = "") -> None:
    """A tokenizer of one token a word. before, behind: special tokens that it adds to a text."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = {"<unknown>": 0, "<end>": 1, "<begin>": 2}
    words |= {f"w{number}": number for number in range(3, VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unknown>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if before or behind:
        added = [(token, words[token]) for token in (before, behind) if token]
        pattern = " ".join(part for part in (before, "$A", behind) if part)
        tokenizer.post_processor = processors.TemplateProcessing(
            single=pattern, special_tokens=added
        )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unknown>",
        eos_token="<end>",
        bos_token=before or None,
    ).save_pretrained(folder)


def edit_config(folder: Path, **changes: Any) -> None:
    """Change a checkpoint's config.json."""
    path = folder / "config.json"
    path.write_text(
        json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}), encoding="utf-8"
    )
