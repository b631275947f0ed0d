"""What a config leaves out and GPUs want otherwise than CPUs: sizes of batches, nothing else.

In: plain values of a config. Out: the same with these filled in. Invariant: what a file says stands
above them, and none of them changes what comes out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rnr_dist.config.base import merged

# Four times as fast as the CPUs' 512 on an 8B model (docs/figures.md, "On a GPU").
MICRO_BATCH_TOKENS = 8192
# Sequences under way together: 14 times as fast as 64 through transformers. Over all engines, so
# that none takes the work of the others.
SEQUENCES = 1024
LEAST_BATCH = 64


def sized_for_devices(content: Mapping[str, Any], methods: Iterable[str]) -> dict[str, Any]:
    """`content` with the defaults of GPUs where engines, or workers, run on them.

    methods: those that have a training of their own.
    """
    filled: dict[str, Any] = {}
    engines, workers = content.get("engines"), content.get("workers")
    if isinstance(engines, Mapping) and engines.get("gpus_each"):
        count = engines.get("count", 2)
        each = SEQUENCES // count if isinstance(count, int) and count > 0 else LEAST_BATCH
        filled["engines"] = {"max_num_seqs": SEQUENCES, "batch": max(LEAST_BATCH, each)}
    if isinstance(workers, Mapping) and workers.get("gpus_each"):
        training = {"micro_batch_tokens": MICRO_BATCH_TOKENS}
        filled["release"] = {"forget": training, "retain": training}
        filled["methods"] = {name: {"training": training} for name in methods}
        if content.get("recipe") == "unlearn-sequences":
            filled["memorise"] = {"training": training}
    return merged(filled, content)
