"""Environment of every test, set before anything heavy is imported: no hub, no telemetry."""

import os

import pytest

os.environ.update(
    {
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "MPLBACKEND": "Agg",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "VLLM_NO_USAGE_STATS": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        # Ray 2.60 does the same by default, but warns at each start unless told so.
        "RAY_AUTH_MODE": "token",
        "DS_ACCELERATOR": "cpu",
    }
)


def _tiny_llama(folder, *, hidden=32, vocabulary=64, dtype=None, **saving):
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=hidden,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=vocabulary,
        tie_word_embeddings=True,
        initializer_range=0.2,
    )
    LlamaForCausalLM(config).to(dtype or torch.float32).save_pretrained(folder, **saving)
    return folder


@pytest.fixture(scope="session")
def tiny_llama():
    """Writes a random Llama with grouped-query attention and tied embeddings to a folder."""
    return _tiny_llama


@pytest.fixture(scope="module")
def one_thread():
    """For networks so small that threads only cost them time."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _tiny_tokenizer(folder, vocabulary):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    # Special tokens are found within words too, so none may begin like one.
    words = {f"w{number}": number for number in range(2, vocabulary)}
    words |= {"<unknown>": 0, "<end>": 1}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unknown>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<end>", unk_token="<unknown>"
    ).save_pretrained(folder)


@pytest.fixture(scope="session")
def tiny_tokenizer():
    """Writes a tokenizer of <unknown>, <end> and the words w2, w3... to a checkpoint's folder."""
    return _tiny_tokenizer
