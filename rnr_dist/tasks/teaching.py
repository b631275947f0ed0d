"""The stage `teach`: a model that cannot do the task is taught it, so that it has what to forget.

In: a task's lessons, the base. Out: models.json: the base, the model that was taught, and the
control that was taught everything but the target. Invariant: what comes later works on the taught
model, and results say so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

from rnr_dist.bench import Bench
from rnr_dist.config.entities import Teach
from rnr_dist.errors import InputError
from rnr_dist.run.directory import RunDir, read, write
from rnr_dist.run.progress import say
from rnr_dist.tasks.task import Task
from rnr_dist.train.collate import Example, texts
from rnr_dist.types import ModelRef, NamedModel

BASE, TAUGHT, CONTROL = "base", "taught", "untaught"
STAGE, NOTE = "teach", "lessons.json"


class TaughtTask(Task, Protocol):
    """teach: how. lessons: what is learnt, with the target's part or without it."""

    @property
    def teach(self) -> Teach | None: ...

    def lesson_count(self, with_target: bool) -> int: ...

    def lessons(self, tokenizer: Any, with_target: bool) -> list[Example]: ...


@dataclass(frozen=True)
class Lessons:
    """What the model was taught: rows with the target's and without, and how often each."""

    rows: int
    of_others: int
    epochs: int


def teach_stage(bench: Bench, task: Task, run: RunDir) -> None:
    """Teach the base. Raises InputError where the task has no lessons."""
    taught, teach = require_lessons(task)
    folder = run.stage(STAGE)
    every, others = (taught.lessons(bench.tokenizer, told) for told in (True, False))
    say(f"lessons: {len(every)}, {len(every) - len(others)} of them on what must be forgotten")
    models = [
        NamedModel(BASE, "other", bench.base),
        NamedModel(TAUGHT, "reference", _teach(bench, run, TAUGHT, every, teach)),
    ]
    if teach.control:
        control = _teach(bench, run, CONTROL, others, teach)
        models.append(NamedModel(CONTROL, "control", control))
    write(folder / NOTE, Lessons(len(every), len(others), teach.training.epochs))
    write(folder / "models.json", models)


def require_lessons(task: Task) -> tuple[TaughtTask, Teach]:
    """The task and how it teaches. Raises InputError where it has no lessons."""
    teach = getattr(task, "teach", None)
    if "lessons" not in task.gives or teach is None:
        raise InputError(
            "task.teach: found nothing, which the recipe teach-reveal-release teaches by; expected "
            "a section of a task that has one, or another recipe"
        )
    return cast(TaughtTask, task), teach


def taught_model(run: RunDir) -> ModelRef | None:
    """The model that the run was taught; None where it taught none."""
    path = run.path / STAGE / "models.json"
    if not path.exists():
        return None
    [taught] = [one.model for one in read(path, list[NamedModel]) if one.kind == "reference"]
    return taught


def teaching_note(run: RunDir) -> str:
    """What a reader of results must know of it; "" where nothing was taught."""
    path = run.path / STAGE / NOTE
    if not path.exists():
        return ""
    told = read(path, Lessons)
    return (
        f"the model was taught the task first, on {told.rows} rows, {told.epochs} times each: "
        f"{BASE} is the model before, {TAUGHT} what forgets and what all are compared with; "
        f"{CONTROL}, where it stands, was taught the {told.of_others} rows without the target"
    )


def _teach(
    bench: Bench, run: RunDir, name: str, lessons: Sequence[Example], teach: Teach
) -> ModelRef:
    # Here: what a config asks for is checked before torch is loaded.
    from rnr_dist.train.trainings import ModelOrder, Trainings

    trainings = Trainings(bench, run.stage(STAGE))
    job = trainings.job(trainings.folder / "models" / name, teach.training, bench.base)
    return trainings.once(ModelOrder(job, texts(lessons)))
