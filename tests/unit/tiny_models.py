"""Random models of a few thousand weights, for the formulas of objectives."""

import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

SIZES = {
    "vocab_size": 53,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "initializer_range": 0.4,
}


def llama(layers=2):
    """Grouped-query attention, tied embeddings; always the same weights."""
    torch.manual_seed(0)
    config = LlamaConfig(**SIZES, num_hidden_layers=layers, tie_word_embeddings=True)
    return LlamaForCausalLM(config)


def gpt_neo(layers=2, window=6):
    """Absolute positions, and a layer that sees `window` tokens back only."""
    torch.manual_seed(0)
    config = GPTNeoConfig(
        vocab_size=53,
        hidden_size=16,
        num_layers=layers,
        num_heads=4,
        attention_types=[[["global", "local"], layers // 2]],
        window_size=window,
        max_position_embeddings=64,
        initializer_range=0.4,
        bos_token_id=1,
        eos_token_id=1,
    )
    return GPTNeoForCausalLM(config)


def mistral(window):
    """Every layer sees `window` tokens back only."""
    torch.manual_seed(0)
    config = MistralConfig(**SIZES, num_hidden_layers=2, sliding_window=window)
    return MistralForCausalLM(config)


def gemma_2(window):
    """A layer that sees `window` tokens back, then one that sees all, and so on."""
    torch.manual_seed(0)
    sizes = {**SIZES, "sliding_window": window, "final_logit_softcapping": None}
    return Gemma2ForCausalLM(Gemma2Config(**sizes, num_hidden_layers=4))


def capped_gemma():
    """Its logits are soft-capped after the head."""
    torch.manual_seed(0)
    config = Gemma2Config(**SIZES, num_hidden_layers=2, final_logit_softcapping=2.0)
    return Gemma2ForCausalLM(config)
