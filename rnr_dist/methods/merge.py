"""One method from its trainings to its chosen model, by merging, within the recipe's budget.

In: a method, its settings, what all methods share. Out: a `Merged`. Invariant: every method is
chosen by the same rules, on what the task reads for `search`, from as many candidates and as many
trained tokens as the recipe's own. What was trained and read is taken as it is when it goes on.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rnr_dist.config.methods import MethodSettings
from rnr_dist.config.training import Training
from rnr_dist.methods.method import Method
from rnr_dist.release.choice import Trial, choose
from rnr_dist.release.reader import Reader
from rnr_dist.release.rules import MergeStep
from rnr_dist.run.directory import read_json, write
from rnr_dist.run.progress import say
from rnr_dist.train.collate import Item
from rnr_dist.train.job import SUMMARY
from rnr_dist.train.materials import Materials, with_retained
from rnr_dist.train.objectives import make_objective
from rnr_dist.types import Adapter, ModelRef

if TYPE_CHECKING:
    from rnr_dist.train.trainings import Trainings


@dataclass(frozen=True)
class Budget:
    """Trained tokens, and candidates read on `search` (readings on fresh samples come on top).

    dead: of the candidates, those that came to nothing; of what was spent, not of what is given.
    """

    tokens: int
    candidates: int
    dead: int = 0


@dataclass(frozen=True)
class Ground:
    """What all methods that are merged share: the model that forgets, what they train on, who reads
    candidates, and where files go."""

    base: ModelRef
    materials: Materials
    reader: Reader
    trainings: Trainings
    budget: Budget
    folder: Path


@dataclass(frozen=True)
class Merged:
    """The chosen model of a method and what it took.

    feasible: False where the least violation won. dead: candidates that lost on utility before
    anything was generated from them.
    """

    name: str
    model: ModelRef
    candidate: str
    feasible: bool
    broken: tuple[str, ...]
    tokens: int
    candidates: int
    dead: int
    trials: tuple[Trial, ...]


def run_merged(method: Method, settings: MethodSettings, ground: Ground) -> Merged:
    """Train the grid, read every candidate, choose by the rules of Eq. 1's last subtraction.

    The result is also `ground.folder`/NAME.json. Raises InputError where nothing can be trained on.
    """
    name, budget, reader = method.name, ground.budget, ground.reader
    each = max(1, budget.tokens // (len(settings.grid) * len(method.adapters)))
    count = max(1, budget.candidates // len(settings.grid))
    models: dict[str, ModelRef] = {}
    tokens = 0
    for place, overrides in enumerate(settings.grid):
        training = settings.trained_with({**overrides, "tokens": each})
        adapters = {
            adapter: ground.trainings.adapter(
                f"{name}-{place}-{adapter}",
                items_of(method, adapter, ground.materials, training),
                training,
                side,
                ground.base,
            )
            for adapter, side in method.adapters.items()
        }
        tokens += sum(map(trained_tokens, adapters.values()))
        for strength in spaced(settings.low, settings.high, count):
            label = f"{json.dumps(overrides)} x {strength:g}"
            folder = ground.folder / f"{name}-{place}"
            models[label] = method.model(ground.base, adapters, strength, folder)
    say(f"{name}: choosing among {len(models)} candidates")
    start = reader.read(ground.base)
    choice = choose(reader, name, MergeStep.final(reader.task.measures, start), models)
    result = Merged(
        name,
        models[choice.candidate],
        choice.candidate,
        choice.verdict.feasible,
        choice.verdict.broken,
        tokens,
        len(models),
        choice.dead,
        choice.trials,
    )
    write(ground.folder / f"{name}.json", result)
    return result


def items_of(
    method: Method, adapter: str, materials: Materials, training: Training
) -> Sequence[Item]:
    """A method's items on what it needs, with what its objective retains beside them."""
    known = materials.only(method.needs)
    items = method.items(adapter, known, training)
    least, most = make_objective(training.objective).parts.get("retain", (0, 0))
    if least or not most:  # an objective that cannot do without has its own in the items
        return items
    return with_retained(items, range(len(items)), known.retain, most, materials.seed)


def spaced(low: float, high: float, count: int) -> list[float]:
    """`count` strengths, geometrically, to three digits, each once; the middle if only one."""
    if count == 1:
        return [float(f"{math.sqrt(low * high):.3g}")]
    return list(dict.fromkeys(float(f"{value:.3g}") for value in np.geomspace(low, high, count)))


def trained_tokens(adapter: Adapter) -> int:
    """Tokens that an adapter's training saw, all epochs together."""
    return int(read_json(Path(adapter.path) / SUMMARY)["tokens"])
