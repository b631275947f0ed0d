"""Tasks: what to forget, how it is told, and what of it is measured. The protocol.

In: a config and a bench. Out: contexts, training materials, readings under declared measures.
Invariant: no other room knows what the target is; measures, guards and rules go through these
declarations.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

from rnr_dist.bench import Bench
from rnr_dist.config.base import Sampling
from rnr_dist.config.oracles import Named
from rnr_dist.config.registry import task_class
from rnr_dist.config.schema import Config, TaskSettings
from rnr_dist.errors import InputError
from rnr_dist.measures.measure import Measures, problem_with
from rnr_dist.measures.results import Estimate
from rnr_dist.run.directory import RunDir
from rnr_dist.score.oracles import check_oracle
from rnr_dist.stats import ClusterMean
from rnr_dist.tasks import TASKS
from rnr_dist.train.materials import Materials, Need
from rnr_dist.types import Context, ModelRef, Split

# `forget`: contexts in which the target shows. `retain`: others, in which the model stays as it is.
ContextKind = Literal["forget", "retain"]
Gives = Need | Literal["contexts", "sequences", "lessons"]


class Task(Protocol):
    """One file, with its own section of the config. `gives`: what methods and recipes may ask for;
    `contexts` lets reveal search it, `sequences` lets it be unlearnt by epochs, `lessons` lets it
    be taught first (`tasks.teaching`)."""

    Settings: ClassVar[type[TaskSettings]]
    recipe: ClassVar[str]
    gives: ClassVar[frozenset[Gives]]
    measures: Measures
    oracle: Named
    """The oracle of relevance: its name (`score.oracles`), `package.module:Class`, or a section of
    its settings."""
    target_above: float
    """A response whose oracle score is above this counts as the target."""

    def __init__(self, config: Config) -> None:
        """Load and check all data. Raises InputError where a file, a row or a split is wrong."""
        ...

    def describe(self) -> list[str]:
        """Lines of `rnr check` on what data was found."""
        ...

    def contexts(self, split: Split, kind: ContextKind) -> list[Context]:
        """Contexts of a split, in an order that never changes."""
        ...

    def prompt(self, context: Context, instruction: str, style: str, tokenizer: Any) -> str:
        """How a context becomes a prompt, with an instruction or (empty) without."""
        ...

    def materials(self, bench: Bench, run: RunDir, needs: frozenset[Need]) -> Materials:
        """What methods train on; what is drawn from the model is a file, so all see the same."""
        ...

    def read_utility(self, bench: Bench, model: ModelRef, split: Split) -> dict[str, ClusterMean]:
        """The utility measures by name: the cheap half of a reading, nothing in it is drawn."""
        ...

    def read_target(
        self, bench: Bench, model: ModelRef, split: Split, sampling: Sampling
    ) -> dict[str, ClusterMean]:
        """The target measure and the guards by name, on fresh samples."""
        ...

    def evaluate(
        self, bench: Bench, model: ModelRef, name: str, folder: Path
    ) -> dict[str, Estimate]:
        """All measures on `evaluate.split`; samples go to `folder`/`name`.parquet."""
        ...


PARTS = (
    "Settings",
    "recipe",
    "gives",
    "measures",
    "oracle",
    "target_above",
    "describe",
    "contexts",
    "prompt",
    "materials",
    "read_utility",
    "read_target",
    "evaluate",
)


def make_task(config: Config) -> Task:
    """The config's task with its data. Raises InputError also where it is no whole `Task`."""
    name = config.task.name
    found = task_class(name)
    task = _own(name, lambda: found(config))
    missing = [part for part in PARTS if not hasattr(task, part)]
    if missing:
        raise InputError(
            f"task {name}: lacks {', '.join(missing)}; expected all parts of tasks.task.Task"
        )
    if not isinstance(task.measures, Measures):
        raise InputError(
            f"task {name}: measures is a {type(task.measures).__name__}, expected Measures"
        )
    problem = problem_with(task.measures.declared)
    if problem:
        raise InputError(f"task {name}: {problem}")
    if task.oracle:
        check_oracle(task.oracle)
    whole: Task = task
    return whole


def oracle_of(config: Config) -> Named:
    """The task's oracle, "" for none; the task's data are read only where its class does not say it
    by itself. Raises InputError."""
    name = config.task.name
    found = task_class(name)
    if isinstance(oracle := getattr(found, "oracle", None), str):
        return oracle
    if hasattr(found, "oracle_of"):
        told: Named = _own(name, lambda: found.oracle_of(config.task))
        return told
    return make_task(config).oracle


def _own(name: str, made: Callable[[], Any]) -> Any:
    """What a task's class makes; whatever a user's own raises on the way is an InputError."""
    try:
        return made()
    except InputError:
        raise
    except Exception as error:
        if name in TASKS:
            raise
        raise InputError(
            f"task {name}: cannot be made ({type(error).__name__}: {error}); expected a class that "
            "takes the config"
        ) from error
