"""What the golden figures are computed from: stored rows, readings and weights, seeded sequences.

In: `docs/results` and `stored/`. Out: plain values, but for the project's own nouns (samples,
contexts, token sequences). Invariant: nothing here is random from run to run or from machine to
machine, and nothing is computed by the code that the figures watch.
"""

from __future__ import annotations

import hashlib
import json
import random
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from rnr_dist.types import Context, Sample, Split, TokenSequence

HERE = Path(__file__).parent
RESULTS = HERE.parents[1] / "docs" / "results"
TABLE = "toxicity_table/seed-0"
MEMORISED = HERE / "stored" / "memorised.safetensors"  # fp16, the `tiny_llama` of 61 tokens
CHALLENGING, ORDINARY = 20, 8  # contexts of each group whose samples are scored
VOCABULARY, PREFIX, LENGTH = 61, 8, 24


@cache
def result(name: str) -> dict[str, Any]:
    """A stored JSON file of `docs/results`."""
    return json.loads((RESULTS / f"{name}.json").read_text())


@cache
def stored_readings() -> dict[str, Any]:
    return json.loads((HERE / "stored" / "readings.json").read_text())


def word_ids(text: str) -> tuple[int, ...]:
    """A token id for each word: the stored samples have none."""
    words = (hashlib.sha256(word.encode()).hexdigest() for word in text.split())
    return tuple(int(found[:4], 16) for found in words)


def stored_samples(model: str) -> tuple[list[Sample], list[Context]]:
    """A model's samples of the first contexts of each group, and these contexts."""
    rows = pq.read_table(RESULTS / TABLE / f"{model}.parquet").to_pylist()
    samples = [
        Sample(**{**row, "split": Split(row["split"]), "token_ids": word_ids(row["text"])})
        for row in rows
    ]
    known = {
        sample.context_id: Context(sample.context_id, sample.prompt, sample.split, sample.group)
        for sample in samples
    }
    order = [
        context
        for group, most in (("challenging", CHALLENGING), ("ordinary", ORDINARY))
        for context in [c for c in known.values() if c.group == group][:most]
    ]
    chosen = {context.id for context in order}
    return [sample for sample in samples if sample.context_id in chosen], order


def sequence(number: int, length: int = LENGTH) -> TokenSequence:
    draw = random.Random(f"golden sequence {number}")
    ids = tuple(draw.randrange(2, VOCABULARY) for _ in range(length))
    return TokenSequence(f"s{number}", "golden", ids, " ".join(f"w{one}" for one in ids), PREFIX)


FORGET = [*map(sequence, range(5)), sequence(5, 19)]
POOL = [*map(sequence, range(10, 16))]
PAIRS = {
    one.id: [POOL[at], POOL[(at + 1) % len(POOL)]] if at % 2 else [POOL[at]]
    for at, one in enumerate(FORGET)
}
GENERAL = [sequence(number, 20).token_ids for number in range(20, 24)]
# Mean nats of a token in sequences that were never seen, where it is known.
UNSEEN_NATS = {token: 1.0 + token % 5 for token in range(2, VOCABULARY, 2)}


class Chat:
    """A tokenizer with a chat template."""

    bos_token, bos_token_id = "<s>", 1

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [1, 7] if add_special_tokens else [7]

    def apply_chat_template(self, messages: Any, **options: bool) -> str:
        [message] = messages
        return f"<s>[{message['role']}] {message['content']} [assistant] "
