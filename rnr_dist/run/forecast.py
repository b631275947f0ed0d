"""How far a run is, and about how long what is left will take.

In: the stages to come, how long they took elsewhere. Out: words for a line. Invariant: an estimate
says what it is made from; without anything to judge by there is none.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rnr_dist.errors import InputError
from rnr_dist.run.directory import read_json

# Share of a run's time by stage, of the runs in docs/results: what is judged by where no run of the
# same config stands beside this one. The epochs of ICU are too unlike from run to run.
SHARES = {"reveal": 0.15, "release": 0.65, "evaluate": 0.2, "report": 0.005}
MINUTE, HOUR = 60.0, 3600.0
LEAST = 20.0  # seconds that are worth an estimate


@dataclass
class Forecast:
    """The stages that a run goes through, in order. known: seconds by stage of an earlier run."""

    stages: Sequence[str]
    known: Mapping[str, float] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)
    took: dict[str, float] = field(default_factory=dict)

    def done(self, stage: str, seconds: float) -> None:
        """A stage has ended; 0 s where it was done before."""
        self.took[stage] = seconds

    def line(self, stage: str) -> str:
        """What begins now, of how many; how long it has been and will be."""
        place = list(self.stages).index(stage) + 1
        told = [f"stage {place} of {len(self.stages)}"]
        passed = time.monotonic() - self.began
        if passed >= MINUTE:
            told.append(f"{duration(passed)} so far")
        left = self.left(self.stages[place - 1 :])
        if left and left[0] >= LEAST:
            told.append(f"about {duration(left[0])} left, judging by {left[1]}")
        return f"{stage}: {', '.join(told)}"

    def left(self, stages: Sequence[str]) -> tuple[float, str] | None:
        """Seconds that these take, and what that is judged by."""
        if all(stage in self.known for stage in stages):
            return sum(self.known[stage] for stage in stages), "an earlier run of this config"
        took = {stage: seconds for stage, seconds in self.took.items() if seconds}
        if took and all(stage in SHARES for stage in [*took, *stages]):
            rate = sum(took.values()) / sum(SHARES[stage] for stage in took)
            return rate * sum(SHARES[stage] for stage in stages), "other configs"
        return None


def earlier(runs: Path, own: Path, name: str) -> dict[str, float]:
    """Seconds by stage of the latest other run in `runs` with a config of this name."""
    found = [path for path in runs.glob("*/stages.json") if path.parent.resolve() != own.resolve()]
    for path in sorted(found, key=lambda one: one.stat().st_mtime, reverse=True):
        try:
            config, stages = read_json(path.with_name("config.json")), read_json(path)
            if config["name"] == name:
                took: dict[str, float] = {}
                for stage in stages:  # a stage that was interrupted has several entries
                    took[stage["name"]] = took.get(stage["name"], 0) + stage["wall_seconds"]
                return took
        except (InputError, OSError, KeyError, TypeError):  # no run of ours: it says nothing
            continue
    return {}


def duration(seconds: float) -> str:
    """`40 s`, `12 min`, `3.4 h`."""
    if seconds < 1.5 * MINUTE:
        return f"{seconds:.0f} s"
    return f"{seconds / MINUTE:.0f} min" if seconds < 1.5 * HOUR else f"{seconds / HOUR:.1f} h"
