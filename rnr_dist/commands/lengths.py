"""Texts that a model is given whole, against the window of its engines.

In: a config, its task, a checkpoint on this disk. Out: nothing, or one InputError that names the
file and the row of a text that is too long. Invariant: a text that is short in bytes is not
encoded, so that a hundred thousand contexts take a second and most data no tokenizer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rnr_dist.config.schema import Config
from rnr_dist.config.sources import ContextSource
from rnr_dist.data.encoding import encoded
from rnr_dist.data.sources import nth_place, place_of
from rnr_dist.errors import InputError
from rnr_dist.measures.problems import REPLY, turns
from rnr_dist.reveal.instructions import META_ENDING, require_meta_prompt
from rnr_dist.tasks.task import Task
from rnr_dist.types import Context, Split
from rnr_dist.weights.checkpoints import checkpoint_here

SPECIAL = 8  # tokens that a tokenizer may add around a text, at most
FRAME = 512  # bytes of a chat template or of the words around an instruction, at most


@dataclass(frozen=True)
class Window:
    """What an engine holds at once. checkpoint: whose tokenizer counts."""

    config: Config
    checkpoint: Path

    @cached_property
    def tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(
            self.checkpoint, trust_remote_code=self.config.trust_remote_code
        )

    def require(self, text: str, more: int, place: Callable[[], str]) -> None:
        """Raises InputError, which `place` begins, where `text` and `more` tokens do not fit."""
        window = self.config.engines.max_model_len
        if len(text.encode()) + SPECIAL + more <= window:
            return
        tokens = len(encoded(self.tokenizer, text))
        if tokens + more > window:
            raise InputError(
                f"{place()}: has {tokens} tokens ({text[:40]!r}...); expected at most "
                f"{window - more}, so that {more} more fit engines.max_model_len {window}"
            )


def require_texts_fit(config: Config, task: Task, checkpoint: Path) -> None:
    """Raises InputError for the first context, of any split, question or conversation that leaves
    the model no room to answer, as every stage asks it; also by the models of `evaluate.others`
    that lie on this disk."""
    window, answer = Window(config, checkpoint), config.evaluate.sampling.max_tokens
    longest = max(answer, config.release.search.max_tokens, config.retain.response.max_tokens)
    contexts = _contexts(task)
    for context in contexts:
        window.require(context.text, longest, _placed(config, context))
        if context.split in (Split.REVEAL, Split.TRAIN):
            _require_instructed(window, task, context)
    _require_problems(window, task)
    _require_meta_prompt(window)
    for name, model in config.evaluate.others.items():
        if here := checkpoint_here(model):
            other = Window(config, here)
            for context in contexts:
                if context.split is config.evaluate.split:
                    place = _placed(config, context, f"evaluate.others.{name}: ")
                    other.require(context.text, answer, place)


def _contexts(task: Task) -> list[Context]:
    return [
        context
        for kind in ("forget", "retain")
        for split in Split
        for context in task.contexts(split, kind)  # type: ignore[arg-type]
    ]


def _require_instructed(window: Window, task: Task, context: Context) -> None:
    """The context behind an instruction of the search, or behind each of `reveal.prompts`."""
    config = window.config
    reveal, told = config.reveal, config.reveal.prompts or ["a"]
    more = reveal.response.max_tokens + (0 if reveal.prompts else reveal.instruction_tokens)
    size = len(context.text.encode()) + max(len(one.encode()) for one in told)
    if size + FRAME + SPECIAL + more > config.engines.max_model_len:
        for instruction in told:
            prompt = task.prompt(context, instruction, reveal.query, window.tokenizer)
            window.require(prompt, more, _placed(config, context, end=", behind an instruction"))


def _require_meta_prompt(window: Window) -> None:
    """What the writer of instructions is asked, without demonstrations: the least that it can be.

    A writer that is not on this disk is asked once it is.
    """
    reveal, config = window.config.reveal, window.config
    if config.way != "merge" or reveal.prompts:
        return
    told = len(META_ENDING.encode()) + SPECIAL + reveal.soft_tokens + reveal.instruction_tokens
    if told > config.engines.max_model_len:
        here = checkpoint_here(reveal.writer) if reveal.writer else window.checkpoint
        if here:
            require_meta_prompt(config, Window(config, here).tokenizer)


def _require_problems(window: Window, task: Task) -> None:
    """What the task `extraction` asks beside: questions with each choice, and conversations."""
    settings: Any = window.config.task
    for number, question in enumerate(getattr(task, "questions", ())):
        for choice in question.choices:  # a likelihood asks for one more
            window.require(f"{question.question} {choice}", 1, _nth(settings.choices, number))
    for number, dialogue in enumerate(getattr(task, "dialogues", ())):
        text = "\n".join(turns(dialogue))
        window.require(text, REPLY.max_tokens, _nth(settings.dialogues, number))


def _nth(source: str, number: int) -> Callable[[], str]:
    return lambda: nth_place(source, number)


def _placed(config: Config, context: Context, begin: str = "", end: str = "") -> Callable[[], str]:
    """Where a context stands; a task of a user's own may have its contexts from anywhere."""

    def place() -> str:
        source = getattr(config.task, context.group, None)
        found = place_of(source, context) if isinstance(source, ContextSource) else ""
        return f"{begin}{found or f'task {config.task.name}, context {context.id}'}{end}"

    return place
