"""What each method of unlearning trains on for a forget sequence and its pairs.

In: forget sequences, their pairs, the pool. Out: one item a sequence, in the roles of the method's
objective. Invariant: what is drawn (mismatched answers, what an epoch retains) is drawn by the
run's seed.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

from rnr_dist.config.icu import IcuMethodName
from rnr_dist.config.objectives import IcuObjective, KlObjective, KumprObjective, LlmuObjective
from rnr_dist.config.training import Training
from rnr_dist.generate.requests import ReadLikelihood
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
    unseen_nats: Mapping[int, float] = MappingProxyType({}),
) -> list[Item]:
    """`pairs` goes by the forget sequence's id; `unseen_nats` by token id, for natural ceilings.

    All examples of an item count the same places: all tokens where the objective says `whole`,
    else those from `prefix_tokens` on.
    """
    objective = training.objective
    whole = isinstance(objective, (IcuObjective, KumprObjective, KlObjective)) and objective.whole
    # One rule for every role: a method that ascends over whole sequences and held only the ends of
    # its pairs would lose their beginnings, and look worse than it is.
    first = 0 if whole else prefix_tokens
    items = []
    for number, sequence in enumerate(forget):
        ids = sequence.token_ids
        target = Example(ids, first, ceilings(ids, objective, unseen_nats))
        learn = [Example(pair.token_ids, first) for pair in pairs[sequence.id]]
        if name == "kumpr":
            items.append(Item.of(forget=[target]))
        elif name in ("icu", "kl"):
            items.append(Item.of(forget=[target], learn=learn))
        elif name == "dpo":
            pair = pairs[sequence.id][0]
            chosen = Example(other_end(sequence, pair, prefix_tokens), first)
            items.append(Item.of(chosen=[chosen], rejected=[target]))
        else:
            assert isinstance(objective, LlmuObjective)
            draw = random.Random(f"{seed} {number}")
            others = draw.sample(list(pool), min(objective.mismatches, len(pool)))
            wrong = [Example(other_end(sequence, o, prefix_tokens), first) for o in others]
            items.append(Item.of(forget=[target], mismatch=wrong, learn=learn))
    return items


def ceilings(
    token_ids: Sequence[int], objective: object, unseen_nats: Mapping[int, float]
) -> tuple[float, ...]:
    """Nats up to which each token is pushed; none where there is no end."""
    if not isinstance(objective, IcuObjective):
        return ()
    rest = math.inf if objective.ceiling is None else objective.ceiling
    known = unseen_nats if objective.natural else {}
    found = tuple(min(rest, known.get(token, math.inf)) for token in token_ids)
    return found if any(map(math.isfinite, found)) else ()


def retained_texts(
    pool: Sequence[TokenSequence],
    general: Sequence[ReadLikelihood],
    most: int,
    seed: int,
) -> list[Example]:
    """What may be retained, whole: at most `most`, half of each where there is as much of both."""
    draw = random.Random(f"{seed} retained")
    rest = max(most // 2, most - len(pool))
    of_general = draw.sample(list(general), min(rest, len(general)))
    of_pool = draw.sample(list(pool), min(most - len(of_general), len(pool)))
    token_ids = [one.token_ids for one in of_pool] + [one.token_ids for one in of_general]
    return [Example(ids, 0) for ids in token_ids]


def with_retained(
    items: Sequence[Item], chosen: Sequence[int], retained: Sequence[Example], each: int, seed: int
) -> list[Item]:
    """The items, those chosen with `each` of `retained` in the role of that name.

    Another `seed` draws others; none is drawn again before all are.
    """
    order = np.random.default_rng(seed).permutation(len(retained))
    drawn = np.resize(order, (len(chosen), min(each, len(retained))))
    now = list(items)
    for index, row in zip(chosen, drawn, strict=True):
        beside = tuple(("retain", retained[place]) for place in row)
        now[index] = Item((*items[index].members, *beside))
    return now


def other_end(sequence: TokenSequence, other: TokenSequence, prefix_tokens: int) -> tuple[int, ...]:
    """The sequence's prefix and the other's end: an answer that is not the target's."""
    return (*sequence.token_ids[:prefix_tokens], *other.token_ids[prefix_tokens:])
