"""What unlearning by epochs asks of a task beside `tasks.task.Task`: its sequences.

In: a task. Out: the same, known to have sequences. Invariant: a task that has none is refused in
one sentence before anything starts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, cast

from rnr_dist.bench import Bench
from rnr_dist.config.evaluation import Perplexity
from rnr_dist.errors import InputError
from rnr_dist.generate.requests import ReadLikelihood
from rnr_dist.measures.memorisation import Counting
from rnr_dist.measures.perplexity import windows
from rnr_dist.run.directory import RunDir, read
from rnr_dist.tasks.task import Task
from rnr_dist.train.materials import Materials
from rnr_dist.types import ModelRef, NamedModel, Passage, Split, TokenSequence


class SequenceTask(Task, Protocol):
    """forget: what must be forgotten. pool: analogous sequences that stay. unseen: of the same
    kind, never seen by any model. tuning: memorised with the others, settings are chosen on them.
    general: running text by split. max_tokens: of the longest sequence."""

    forget: tuple[TokenSequence, ...]
    pool: tuple[TokenSequence, ...]
    unseen: tuple[TokenSequence, ...]
    tuning: tuple[TokenSequence, ...]
    general: Mapping[Split, tuple[Passage, ...]]
    counting: Counting
    max_tokens: int

    def materials_of(
        self, bench: Bench, run: RunDir, sequences: Sequence[TokenSequence]
    ) -> Materials:
        """All that methods by epochs train on to forget these: `forget`, or `tuning`."""
        ...


def require_sequences(task: Task) -> SequenceTask:
    """The task itself. Raises InputError where it has no sequences."""
    if "sequences" not in task.gives:
        raise InputError(
            "task: gives no sequences, which unlearning by epochs needs; it gives "
            f"{', '.join(sorted(task.gives))}"
        )
    return cast(SequenceTask, task)


def general_windows(bench: Bench, task: SequenceTask, most: int) -> list[ReadLikelihood]:
    """At most so many windows of general text to train on, as long as a sequence may be."""
    if not most:
        return []
    settings = Perplexity(window=task.max_tokens, stride=task.max_tokens, max_windows=most)
    return windows(task.general[Split.RETAIN], bench.tokenizer, settings)


def known_model(bench: Bench, run: RunDir) -> ModelRef:
    """The model that shall forget: the one that memorised, the base where no stage made one."""
    path = run.path / "memorise" / "models.json"
    if not path.exists():
        return bench.base
    [known] = [one.model for one in read(path, list[NamedModel]) if one.kind == "reference"]
    return known
