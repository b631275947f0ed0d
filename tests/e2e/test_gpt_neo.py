"""The whole of `rnr icu` for a family that vLLM does not serve: the transformers backend.

A random GPT-Neo, the ICU paper's family, with a tokenizer of its own.
"""

import json
import shutil
from pathlib import Path

import pytest

from rnr_dist.data.files import BUILTIN_FOLDER
from tests.e2e.command import rnr

pytestmark = pytest.mark.timeout(1200)

CONFIG = Path(__file__).with_name("neo_tiny.yaml")
VOCABULARY = 600


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the config and the model that it names."""
    import torch
    from tokenizers import ByteLevelBPETokenizer
    from transformers import GPTNeoConfig, GPTNeoForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("neo")
    shutil.copy(CONFIG, folder)
    tokenizer = ByteLevelBPETokenizer()
    texts = [(BUILTIN_FOLDER / "practical.txt").read_text()]
    tokenizer.train_from_iterator(texts, VOCABULARY, special_tokens=["<end>"])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer._tokenizer, eos_token="<end>", bos_token="<end>"
    ).save_pretrained(folder / "neo")
    torch.manual_seed(0)
    config = GPTNeoConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        num_layers=2,
        num_heads=4,
        attention_types=[[["global", "local"], 1]],
        window_size=24,  # below the sequences' length
        max_position_embeddings=128,
        bos_token_id=0,
        eos_token_id=0,
    )
    GPTNeoForCausalLM(config).save_pretrained(folder / "neo")
    return folder


def test_check_says_which_backend_and_why(place):
    done = rnr(["check", CONFIG.name], place)
    assert done.returncode == 0, done.stderr
    assert "backend transformers: vLLM does not serve GPTNeoForCausalLM" in done.stdout


def test_vllm_is_refused_before_anything_starts(place):
    refused = rnr(["icu", CONFIG.name, "--set", "engines.backend=vllm", "--run", "no"], place)
    assert refused.returncode == 2
    [line] = refused.stderr.strip().splitlines()
    assert "engines.backend: found vllm, but vLLM does not serve GPTNeoForCausalLM" in line
    assert not (place / "no").exists()


def test_icu_runs_to_its_end(place):
    run = place / "run"
    done = rnr(["icu", CONFIG.name, "--run", str(run)], place)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    content = json.loads((run / "summary.json").read_text())
    rows = {row["name"]: row for row in content["rows"]}
    assert list(rows) == ["base", "memorised", "icu"]
    recalled = {name: row["scores"]["extraction/el_t0"]["value"] for name, row in rows.items()}
    assert recalled["memorised"] > 0.3 > recalled["base"]
    assert recalled["icu"] < recalled["memorised"]
    # The pool read it all, and as the training's own reading did.
    assert rows["memorised"]["scores"]["forget/nll"]["value"] < 1
    assert rows["base"]["scores"]["forget/nll"]["value"] > 5
