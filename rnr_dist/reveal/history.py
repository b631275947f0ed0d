"""What a search has found so far: its event log, its pulls' embeddings, its forget set.

In: finished pulls and fills. Out: all history, rescored under any forget set without a model call
(design decision 3). Invariant: the event log is the only commit point; a file without its line
does not count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from rnr_dist.config import Reveal
from rnr_dist.reveal.scoring import score_batch
from rnr_dist.reveal.vendi import SecondMoment
from rnr_dist.run_dir import EventLog, read_rows, replacing, write_rows
from rnr_dist.types import Pull, Sample


@dataclass(frozen=True)
class Fill:
    """What the best instruction of an outer iteration added to the forget set."""

    outer: int
    arm: int
    instruction: str
    score: float
    relevance: float
    diversity: float
    n_generated: int
    n_rows: int


class History:
    """Reads the log on opening; `add_pull` and `add_fill` commit."""

    def __init__(self, folder: Path, reveal: Reveal, dimension: int):
        self._folder, self._reveal = folder, reveal
        self._log = EventLog(folder / "events.jsonl")
        self._embeddings: dict[str, np.ndarray] = {}
        self.pulls: list[Pull] = []
        self.fills: list[Fill] = []
        self.moment = SecondMoment(dimension)
        for event in self._log.read():
            if event["event"] == "pull":
                self.pulls.append(Pull(**event["pull"]))
            else:
                self.fills.append(Fill(**event["fill"]))
                self.moment.add(np.load(self._path(f"fill-{self.fills[-1].outer}", "npy")))

    def __contains__(self, pull_id: str) -> bool:
        return any(pull.id == pull_id for pull in self.pulls)

    def score(self, embeddings: np.ndarray, relevance: float) -> tuple[float, float]:
        """(score, diversity) under the forget set of now."""
        reveal = self._reveal
        return score_batch(
            embeddings, relevance, self.moment, reveal.alpha, reveal.mode, reveal.batch_weight
        )

    def add_pull(self, pull: Pull, samples: Sequence[Sample], embeddings: np.ndarray) -> None:
        if pull.id in self:
            return  # issued twice, counted once
        write_rows(self._path(pull.id, "parquet"), samples)
        self._save(pull.id, embeddings)
        self._log.append({"event": "pull", "pull": asdict(pull)})
        self.pulls.append(pull)

    def add_fill(self, fill: Fill, rows: Sequence[Sample], embeddings: np.ndarray) -> None:
        name = f"fill-{fill.outer}"
        if rows:
            write_rows(self._path(name, "parquet"), rows)
        self._save(name, embeddings)
        self._log.append({"event": "fill", "fill": asdict(fill)})
        self.fills.append(fill)
        self.moment.add(embeddings)

    def rescored(self) -> list[Pull]:
        """The latest pull of each arm, scored under the forget set of now."""
        latest = {pull.arm: pull for pull in self.pulls}
        version = len(self.fills)
        rescored = []
        for pull in latest.values():
            score, diversity = self.score(self.embeddings(pull.id), pull.relevance)
            rescored.append(replace(pull, score=score, vendi=diversity, forget_set_version=version))
        return rescored

    def embeddings(self, name: str) -> np.ndarray:
        if name not in self._embeddings:
            self._embeddings[name] = np.load(self._path(name, "npy"))
        return self._embeddings[name]

    def forget_rows(self) -> list[Sample]:
        """D_self-gen so far: the rows of all fills, equal texts of a context once."""
        rows = [
            row
            for fill in self.fills
            if fill.n_rows
            for row in read_rows(self._path(f"fill-{fill.outer}", "parquet"), Sample)
        ]
        return list({(row.context_id, row.text): row for row in rows}.values())

    def _save(self, name: str, embeddings: np.ndarray) -> None:
        with replacing(self._path(name, "npy")) as aside, aside.open("wb") as handle:
            np.save(handle, embeddings)

    def _path(self, name: str, suffix: str) -> Path:
        return self._folder / "pulls" / f"{name}.{suffix}"
