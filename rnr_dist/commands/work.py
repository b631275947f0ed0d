"""How many tokens each stage of a run generates and trains on, at most, before anything is done.

In: a config and its task. Out: a `Work` a stage. Invariant: counts of what config and data say;
where only a run will tell (what the forget set holds, when epochs end) the most that it can be.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from rnr_dist.config.base import Sampling
from rnr_dist.config.schema import Config
from rnr_dist.tasks.sequences import require_sequences
from rnr_dist.tasks.task import Task
from rnr_dist.tasks.teaching import require_lessons
from rnr_dist.types import Context, Split

CONTEXT_TOKENS = 24  # of a context in a training item at least, as on the built-in texts
CHARACTERS_A_TOKEN = 4
DEMONSTRATION_DRAWS = 4  # as `reveal.table` draws them


@dataclass(frozen=True)
class Work:
    """Tokens of a stage. trained: by the training's key. starts: trainings, each a start of
    workers."""

    stage: str
    generated: int = 0
    trained: Mapping[str, int] = field(default_factory=dict)
    starts: int = 0


def work_of(config: Config, task: Task) -> list[Work]:
    """The stages of the config's recipe in their order."""
    return list(_merged(config, task) if config.way == "merge" else _by_epochs(config, task))


def _merged(config: Config, task: Task) -> Iterator[Work]:
    reveal, rules, retain = config.reveal, config.release, config.retain
    forget = {split: len(task.contexts(split, "forget")) for split in Split}
    kept = {split: len(task.contexts(split, "retain")) for split in Split}
    if "lessons" in task.gives:
        yield _lessons(task)
    outer = len(reveal.prompts) or reveal.outer_iterations
    pulls = 0 if reveal.prompts else outer * (reveal.budget + reveal.recheck)
    asked = min(reveal.contexts_per_pull, forget[Split.REVEAL])
    filled = outer * reveal.fill_per_context * forget[Split.TRAIN]
    arms = 0 if reveal.prompts else reveal.arms * reveal.instruction_tokens
    shown = DEMONSTRATION_DRAWS * forget[Split.REVEAL] if arms else 0
    drawn = pulls * asked * reveal.response.n + filled + shown
    yield Work("reveal", arms + drawn * reveal.response.max_tokens)

    cycles = rules.iterations
    retained = retain.responses_per_context * kept[Split.RETAIN]
    retained += retain.mild_per_context * forget[Split.TRAIN]
    steps = 1 + 2 * cycles
    candidates = 1 + rules.mu0.trials + cycles * (rules.lam.trials + rules.mu.trials)
    candidates += steps * rules.reread * rules.reread_draws + rules.joint.trials
    read = candidates * _tokens(rules.search, forget[Split.SEARCH] + kept[Split.SEARCH])
    asked_tokens = _tokens_of(task.contexts(Split.TRAIN, "forget"))
    length = asked_tokens + reveal.response.max_tokens
    trained = {
        "release.forget": (1 + cycles) * rules.forget.epochs * filled * length,
        # The last is the control, which is only retained.
        "release.retain": (1 + cycles if cycles else 0)
        * rules.retain.epochs
        * retained
        * (_tokens_of(task.contexts(Split.RETAIN, "retain")) + retain.response.max_tokens),
    }
    drawn = retained * retain.response.max_tokens
    yield Work("release", read + drawn, trained, 2 * (1 + cycles) if cycles else 1)
    split, rows = config.evaluate.split, 2 + steps + len(config.evaluate.others)
    yield Work("evaluate", rows * _tokens(config.evaluate.sampling, forget[split] + kept[split]))


def _lessons(task: Task) -> Work:
    """Teaching, of the model and of the control that never saw the target."""
    taught, teach = require_lessons(task)
    rows = taught.lesson_count(True) + (taught.lesson_count(False) if teach.control else 0)
    each = _tokens_of(task.contexts(Split.TRAIN, "retain"))
    trained = rows * teach.training.epochs * each
    return Work("teach", 0, {"task.teach.training": trained}, 1 + teach.control)


def _tokens_of(contexts: Sequence[Context]) -> int:
    """Tokens of a context in the mean, by its length; no tokenizer is asked."""
    letters = sum(len(context.text) for context in contexts) / max(1, len(contexts))
    return max(CONTEXT_TOKENS, round(letters / CHARACTERS_A_TOKEN))


def _by_epochs(config: Config, task: Task) -> Iterator[Work]:
    sequences, settings = require_sequences(task), config.memorise
    length = max(len(one.token_ids) for one in sequences.forget)
    models = 1
    if settings.enabled:
        models = 2 + settings.control
        others = len(sequences.tuning) * settings.repeats + len(sequences.pool) + settings.rehearse
        items = others + len(sequences.forget) * settings.repeats
        items += others if settings.control else 0
        epochs = settings.training.epochs
        yield Work("memorise", 0, {"memorise.training": items * length * epochs}, models - 1)
    own = config.methods.of(config.own_method)
    key = next(iter(own.trainings(f"methods.{config.own_method}")))
    places = len(own.grid) if len(own.grid) > 1 else 0
    trained = places * len(sequences.tuning) + len(sequences.forget)
    each = 2 + getattr(own.training.objective, "retain", 0)
    epochs = config.stopping.epochs
    yield Work("icu", 0, {key: trained * epochs * each * length}, places + 1)
    drawn = getattr(config.task, "sampled", None)
    if isinstance(drawn, Sampling):
        yield Work("evaluate", (models + 1) * _tokens(drawn, len(sequences.forget)))


def _tokens(sampling: Sampling, contexts: int) -> int:
    return contexts * sampling.n * sampling.max_tokens
