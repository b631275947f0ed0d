"""What one training worker holds at once: tokens of a micro-batch, logits of some of them.

In: a `training` section, a vocabulary. Out: numbers. Pure. Invariant: they follow from the config
and the model alone, so every rank has the same, whatever is in its batch.
"""

from __future__ import annotations

import math

from rnr_dist.config.training import Training

# Logits that are held at once: .9 GiB with what a step makes of them (`cost.logit_bytes`).
HELD_LOGITS = 2**26
# Least parts where the losses ask the head alone: they hold theta0's logits beside the model's.
LEAST_PARTS = 4


def held_tokens(training: Training, sequences: int = 1) -> int:
    """Padded tokens of the largest micro-batch: whole items, one at least."""
    item = sequences * training.max_tokens
    return item * max(1, min(training.micro_batch_tokens // item, training.batch_size))


def head_parts(training: Training, vocabulary: int) -> int:
    """Parts that the labels of one pass go through the head in.

    The same for all passes of a training: each is a collective where weights are divided (ZeRO-3).
    """
    parts = math.ceil(held_tokens(training) * vocabulary / HELD_LOGITS)
    return max(LEAST_PARTS if training.objective.head_alone else 1, parts)
