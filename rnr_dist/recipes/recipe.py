"""Recipes: named lists of stages. A recipe says what runs, not how.

In: stages of the rooms. Out: `Recipe`s by name. Invariant: a stage is made anew when one of its
config keys, or a stage that it needs, has changed, and only then.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rnr_dist.bench import Bench
from rnr_dist.run.directory import RunDir
from rnr_dist.tasks.task import Task
from rnr_dist.types import ModelRef

EVALUATED = ("evaluate", "task.evaluated")  # what the evaluation depends on, in every recipe
StageFunction = Callable[[Bench, Task, RunDir], None]


def no_base(run: RunDir) -> ModelRef | None:
    """Of a stage that leaves the base what it is."""
    return None


def in_order(*functions: StageFunction) -> StageFunction:
    """One stage of several: what makes something, then what shows it."""

    def run_all(bench: Bench, task: Task, run: RunDir) -> None:
        for function in functions:
            function(bench, task, run)

    return run_all


@dataclass(frozen=True)
class Stage:
    """One stage. needs: stages that must be done before. keys: its own parts of the config
    (`Config.part`) whose change makes it anew; those of the stages that it needs count too. judges:
    whether it reads the evaluated split, which may be the sealed one. beside: what it writes
    outside its own folder; files it always writes, folders where there is something to write. base:
    of a stage that makes the model which the stages after it work on, which that is."""

    name: str
    needs: tuple[str, ...]
    keys: tuple[str, ...]
    run: StageFunction
    judges: bool = False
    beside: tuple[str, ...] = ()
    base: Callable[[RunDir], ModelRef | None] = no_base


@dataclass(frozen=True)
class Recipe:
    """Stages in order. `last`: the one that `rnr run` goes to; later ones are asked for by name."""

    name: str
    stages: tuple[Stage, ...]
    last: str

    def stage(self, name: str) -> Stage:
        """The stage of that name. Raises KeyError."""
        return {stage.name: stage for stage in self.stages}[name]

    def keys_of(self, name: str) -> tuple[str, ...]:
        """All config keys that a stage depends on, its needs' included, each once."""
        stage = self.stage(name)
        above = [key for need in stage.needs for key in self.keys_of(need)]
        return tuple(dict.fromkeys([*above, *stage.keys]))

    def until(self, name: str) -> tuple[Stage, ...]:
        """What must be done for a stage, in the recipe's order, itself last."""
        wanted = {name}
        for stage in reversed(self.stages):
            if stage.name in wanted:
                wanted |= set(stage.needs)
        return tuple(stage for stage in self.stages if stage.name in wanted)
