"""Everything that an ICU run reads, loaded and checked before a model is.

In: the config and a tokenizer. Out: `IcuData`. Invariant: no sequence stands in two of the sets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rnr_dist.config.icu import IcuConfig
from rnr_dist.data.problems import Dialogue, Question, load_problems
from rnr_dist.data.sequences import check_disjoint, load_sequences
from rnr_dist.data.sources import load_passages
from rnr_dist.data.splits import drop_cross_split_duplicates
from rnr_dist.errors import InputError
from rnr_dist.types import Passage, Split, TokenSequence


@dataclass(frozen=True)
class IcuData:
    """The sets of `task`, general text by split, and what `evaluate` asks beside."""

    forget: tuple[TokenSequence, ...]
    pool: tuple[TokenSequence, ...]
    unseen: tuple[TokenSequence, ...]
    tuning: tuple[TokenSequence, ...]
    general: Mapping[Split, tuple[Passage, ...]]
    questions: tuple[Question, ...] = ()
    dialogues: tuple[Dialogue, ...] = ()


def load_icu_data(config: IcuConfig, tokenizer: Any) -> IcuData:
    """Raises InputError where a file, a row or a set is not what it must be."""
    task = config.task
    sets = {
        f"task.{key}": load_sequences(
            getattr(task, key), tokenizer, task.prefix_tokens, task.max_tokens
        )
        for key in ("forget", "pool", "unseen", "tuning")
    }
    check_disjoint(sets)
    for key, sequences in sets.items():
        least = task.prefix_tokens + task.n
        for sequence in sequences:
            if len(sequence.token_ids) < least:
                raise InputError(
                    f"{key}: {sequence.text[:40]!r} has {len(sequence.token_ids)} tokens; expected "
                    f"at least task.prefix_tokens + task.n, {least}, to count extraction in"
                )
    if len(sets["task.pool"]) < config.pairing.k:
        raise InputError(
            f"task.pool: found {len(sets['task.pool'])} sequences, expected at least pairing.k "
            f"{config.pairing.k}"
        )
    passages, *_ = drop_cross_split_duplicates(
        [passage for source in task.general for passage in load_passages(source)]
    )
    general = {
        split: tuple(passage for passage in passages if passage.split is split) for split in Split
    }
    for split in (Split.SEARCH, Split.FINAL):
        if not general[split]:
            raise InputError(f"task.general: holds no text in the split {split}; expected some")
    forget, pool, unseen, tuning = (tuple(sequences) for sequences in sets.values())
    asked = config.evaluate
    questions = load_problems(asked.choices, Question) if asked.choices else ()
    dialogues = load_problems(asked.dialogues, Dialogue) if asked.dialogues else ()
    return IcuData(forget, pool, unseen, tuning, general, questions, dialogues)
