"""One method from its trainings to its chosen model, within R&R's budget.

In: a method, its materials, what R&R spent. Out: a `Result`. Invariant: every method is chosen on
`search` by the same rules, from as many candidates and as many trained tokens as R&R.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rnr_dist.config.baselines import Tuned
from rnr_dist.methods.materials import Materials
from rnr_dist.methods.registry import Method
from rnr_dist.release.choice import Reader
from rnr_dist.release.rules import Reading, Step
from rnr_dist.report.summary import plain
from rnr_dist.run.directory import read, read_json, write
from rnr_dist.run.progress import say
from rnr_dist.train.collate import Item
from rnr_dist.train.worker import SUMMARY
from rnr_dist.types import Adapter, ModelRef

Train = Callable[[str, Sequence[Item], Any, Literal["forget", "retain"], ModelRef], Adapter]


@dataclass(frozen=True)
class Budget:
    """Trained tokens, and candidates read on `search` (readings on fresh samples come on top)."""

    tokens: int
    candidates: int


@dataclass(frozen=True)
class Result:
    """The chosen model of a method and what it took. `feasible` False: the least violation won."""

    name: str
    model: ModelRef
    candidate: str
    feasible: bool
    broken: tuple[str, ...]
    tokens: int
    candidates: int
    trials: tuple[dict[str, Any], ...]


def run_method(
    name: str,
    method: Method,
    tuned: Tuned,
    materials: Materials,
    base: ModelRef,
    start: Reading,
    reader: Reader,
    train: Train,
    budget: Budget,
    folder: Path,
) -> Result:
    """Train the grid, read every candidate, choose by the rules of R&R's last subtraction.

    start: the base's reading. Kept in `folder`/`name`.json; a finished method is not run again.
    """
    path = folder / f"{name}.json"
    if path.exists():
        return read(path, Result)
    each = max(1, budget.tokens // (len(tuned.grid) * len(method.roles)))
    strengths = spaced(tuned.low, tuned.high, max(1, budget.candidates // len(tuned.grid)))
    items = {adapter: method.items(adapter, materials) for adapter in method.roles}
    models: dict[str, ModelRef] = {}
    tokens = 0
    for place, overrides in enumerate(tuned.grid):
        training = tuned.trained_with({**overrides, "tokens": each})
        adapters = {
            adapter: train(f"{name}-{place}-{adapter}", items[adapter], training, role, base)
            for adapter, role in method.roles.items()
        }
        tokens += sum(trained_tokens(adapter) for adapter in adapters.values())
        for strength in strengths:
            label = f"{json.dumps(overrides)} x {strength:g}"
            models[label] = method.model(base, adapters, strength, folder / f"{name}-{place}")
    say(f"{name}: choosing among {len(models)} candidates")
    step = Step("subtract", start, start, start, last=True)
    choice = reader.choose(name, step, models)
    result = Result(
        name,
        models[choice.candidate],
        choice.candidate,
        choice.verdict.feasible,
        choice.verdict.broken,
        tokens,
        len(models),
        tuple(plain(trial.row()) for trial in choice.trials),
    )
    write(path, result)
    return result


def spaced(low: float, high: float, count: int) -> list[float]:
    """`count` strengths, geometrically, to three digits, each once; the middle if only one."""
    if count == 1:
        return [float(f"{(low * high) ** 0.5:.3g}")]
    return list(dict.fromkeys(float(f"{value:.3g}") for value in np.geomspace(low, high, count)))


def trained_tokens(adapter: Adapter) -> int:
    """Tokens that an adapter's training saw, all epochs together."""
    return int(read_json(Path(adapter.path) / SUMMARY)["tokens"])
