"""What each method of unlearning trains on for a forget sequence and its pairs.

In: forget sequences, their pairs, the pool. Out: one item a sequence, in the roles of the method's
objective. Invariant: nothing is drawn but the mismatched answers, and these by the run's seed.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from rnr_dist.config_icu import IcuMethodName
from rnr_dist.config_objectives import IcuObjective, KlObjective, KumprObjective, LlmuObjective
from rnr_dist.config_training import Training
from rnr_dist.train.collate import Example, Item
from rnr_dist.types import TokenSequence


def unlearning_items(
    name: IcuMethodName,
    training: Training,
    forget: Sequence[TokenSequence],
    pairs: Mapping[str, Sequence[TokenSequence]],
    pool: Sequence[TokenSequence],
    prefix_tokens: int,
    seed: int,
) -> list[Item]:
    """`pairs` goes by the forget sequence's id."""
    objective = training.objective
    whole = isinstance(objective, (IcuObjective, KumprObjective, KlObjective)) and objective.whole
    own = 0 if whole else prefix_tokens
    beside = own if name == "icu" else prefix_tokens
    items = []
    for number, sequence in enumerate(forget):
        ids = sequence.token_ids
        target = Example(ids, own)
        learn = [Example(pair.token_ids, beside) for pair in pairs[sequence.id]]
        if name == "kumpr":
            items.append(Item.of(forget=[target]))
        elif name in ("icu", "kl"):
            items.append(Item.of(forget=[target], learn=learn))
        elif name == "dpo":
            pair = pairs[sequence.id][0]
            chosen = Example(other_end(sequence, pair, prefix_tokens), prefix_tokens)
            items.append(Item.of(chosen=[chosen], rejected=[Example(ids, prefix_tokens)]))
        else:
            assert isinstance(objective, LlmuObjective)
            draw = random.Random(f"{seed} {number}")
            others = draw.sample(list(pool), min(objective.mismatches, len(pool)))
            wrong = [Example(other_end(sequence, o, prefix_tokens), prefix_tokens) for o in others]
            items.append(Item.of(forget=[Example(ids, prefix_tokens)], mismatch=wrong, learn=learn))
    return items


def other_end(sequence: TokenSequence, other: TokenSequence, prefix_tokens: int) -> tuple[int, ...]:
    """The sequence's prefix and the other's end: an answer that is not the target's."""
    return (*sequence.token_ids[:prefix_tokens], *other.token_ids[prefix_tokens:])
