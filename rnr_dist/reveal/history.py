"""What a search has found so far: its event log, its pulls' embeddings, its forget set.

In: finished pulls, failures and fills. Out: all history, rescored under any forget set without a
model call ("Scores are recomputed, responses never", docs/design.md). Invariant: the event log is
the only commit point; a file without its line does not count.
"""

from __future__ import annotations

import contextlib
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from rnr_dist.config.reveal import Reveal
from rnr_dist.errors import InputError
from rnr_dist.reveal.scoring import score_batch
from rnr_dist.reveal.vendi import SecondMoment
from rnr_dist.run.codec import from_plain, to_plain
from rnr_dist.run.directory import read_rows, replacing, write_rows
from rnr_dist.run.events import EventLog
from rnr_dist.types import Pull, Sample


@dataclass(frozen=True)
class Fill:
    """What the best instruction of an outer iteration added to the forget set.

    `score`, `relevance` and `diversity` are of its evaluation on fresh contexts where there was
    one. `n_near` of the generated rows were left out as near-duplicates.
    """

    outer: int
    arm: int
    instruction: str
    score: float
    relevance: float
    diversity: float
    n_generated: int
    n_rows: int
    n_near: int = 0


@dataclass(frozen=True)
class Move:
    """One thing that the bandit was told: what a replay repeats.

    `score` is None where the pull failed for good, for the reason in `cause`.
    """

    outer: int
    arm: int
    pull_id: str
    score: float | None
    cause: str = ""


Event = Pull | Move | Fill
# What each event of the log holds, under the kind's name.
KINDS: dict[str, type[Event]] = {
    "pull": Pull,
    "repeat": Move,
    "failure": Move,
    "recheck": Pull,
    "fill": Fill,
}


class History:
    """Reads the log on opening; the `add_` methods commit."""

    def __init__(self, folder: Path, reveal: Reveal, dimension: int):
        self._folder, self._reveal = folder, reveal
        self._log = EventLog(folder / "events.jsonl")
        self._waiting: list[dict] | None = None
        self._files: dict[str, dict[str, np.ndarray]] = {}
        self._pulls: dict[str, Pull] = {}
        self.moves: list[Move] = []
        self._spent: Counter[int] = Counter()
        self.rechecks: list[Pull] = []
        self.fills: list[Fill] = []
        self.moment = SecondMoment(dimension)
        for event in self._log.read():
            self._take(event.get("event", ""), self._what(event))

    @property
    def pulls(self) -> list[Pull]:
        """Finished pulls in the order of arrival, each once."""
        return list(self._pulls.values())

    @property
    def failures(self) -> list[Move]:
        return [move for move in self.moves if move.score is None]

    def get(self, pull_id: str) -> Pull | None:
        return self._pulls.get(pull_id)

    def spent(self, outer: int) -> int:
        """How much of an outer iteration's budget is used: scores told, repeated ones too."""
        return self._spent[outer]

    def score(self, embeddings: np.ndarray, relevance: float) -> tuple[float, float]:
        """(score, diversity) under the forget set of now."""
        reveal = self._reveal
        return score_batch(
            embeddings,
            relevance,
            self.moment,
            reveal.alpha,
            reveal.diversity_kind,
            reveal.batch_weight,
        )

    def add_pull(
        self, pull: Pull, samples: Sequence[Sample], embeddings: np.ndarray, pick: np.ndarray
    ) -> None:
        """Commit a finished pull. pick: the bandit's, of the time when it chose the arm."""
        if pull.id in self._pulls:
            return  # issued twice, counted once
        self._keep(pull.id, samples, embeddings, pick)
        self._commit("pull", pull)

    def add_repeat(self, pull: Pull, arm: int, pick: np.ndarray) -> None:
        """Commit that the bandit chose what had been evaluated: its score was told again."""
        move = Move(pull.outer, arm, f"{pull.id}-again-{len(self.moves)}", pull.score)
        self._save(move.pull_id, np.zeros((0, 0)), pick)
        self._commit("repeat", move)

    def add_failure(self, outer: int, arm: int, pull_id: str, cause: str) -> None:
        self._commit("failure", Move(outer, arm, pull_id, None, cause))

    def add_recheck(self, pull: Pull, samples: Sequence[Sample], embeddings: np.ndarray) -> None:
        """Commit an evaluation on fresh contexts; the bandit is not told of it."""
        self._keep(pull.id, samples, embeddings, np.zeros(0))
        self._commit("recheck", pull)

    def add_fill(self, fill: Fill, rows: Sequence[Sample], embeddings: np.ndarray) -> None:
        self._keep(f"fill-{fill.outer}", rows, embeddings, np.zeros(0))
        self._commit("fill", fill)

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """What the block commits reaches the log in one write when it ends, by an error too."""
        self._waiting = []
        try:
            yield
        finally:
            waiting, self._waiting = self._waiting, None
            if waiting:
                self._log.append(*waiting)

    def rescored(self) -> list[Pull]:
        """The latest pull of each arm, scored under the forget set of now."""
        return [self.rescore(pull) for pull in {pull.arm: pull for pull in self.pulls}.values()]

    def rescore(self, pull: Pull) -> Pull:
        score, diversity = self.score(self.embeddings(pull.id), pull.relevance)
        version = len(self.fills)
        return replace(pull, score=score, vendi=diversity, forget_set_version=version)

    def embeddings(self, name: str) -> np.ndarray:
        return self._load(name)["embeddings"]

    def pick(self, name: str) -> np.ndarray:
        return self._load(name)["pick"]

    def forget_embeddings(self) -> np.ndarray:
        """(|D|, d) of all fills so far."""
        found = [self.embeddings(f"fill-{fill.outer}") for fill in self.fills]
        return np.concatenate([np.zeros((0, self.moment.dimension)), *found])

    def forget_rows(self) -> list[Sample]:
        """D_self-gen so far: the rows of all fills, equal texts of a context once."""
        rows = [
            row
            for fill in self.fills
            if fill.n_rows
            for row in read_rows(self._path(f"fill-{fill.outer}", "parquet"), Sample)
        ]
        return list({(row.context_id, row.text): row for row in rows}.values())

    def _what(self, event: dict[str, Any]) -> Event:
        """What a line of the log holds. Raises InputError."""
        place = str(self._log.path)
        kind = KINDS.get(event.get("event", ""))
        if kind is None:
            raise InputError(
                f"{place}: found the event {event.get('event')!r}; expected {', '.join(KINDS)}"
            )
        return from_plain(kind, event.get(kind.__name__.lower()), place)

    def _take(self, event: str, what: Event) -> None:
        """What an event means, when it is committed and when the log is read."""
        match what:
            case Pull() if event == "pull":
                self._pulls[what.id] = what
                self._told(Move(what.outer, what.arm, what.id, what.score))
            case Pull():
                self.rechecks.append(what)
            case Move():
                self._told(what)
            case Fill():
                self.fills.append(what)
                self.moment.add(self.embeddings(f"fill-{what.outer}"))

    def _told(self, move: Move) -> None:
        self.moves.append(move)
        self._spent[move.outer] += move.score is not None

    def _commit(self, event: str, what: Event) -> None:
        line = {"event": event, type(what).__name__.lower(): to_plain(what)}
        if self._waiting is None:
            self._log.append(line)
        else:
            self._waiting.append(line)
        self._take(event, what)

    def _keep(
        self, name: str, samples: Sequence[Sample], embeddings: np.ndarray, pick: np.ndarray
    ) -> None:
        if samples:
            write_rows(self._path(name, "parquet"), samples)
        self._save(name, embeddings, pick)

    def _save(self, name: str, embeddings: np.ndarray, pick: np.ndarray) -> None:
        with replacing(self._path(name, "npz")) as aside, aside.open("wb") as handle:
            np.savez(handle, embeddings=embeddings, pick=pick)
        self._files[name] = {"embeddings": embeddings, "pick": pick}

    def _load(self, name: str) -> dict[str, np.ndarray]:
        if name not in self._files:
            path = self._path(name, "npz")
            try:
                with np.load(path) as file:
                    self._files[name] = {key: file[key] for key in ("embeddings", "pick")}
            except (OSError, ValueError, KeyError, EOFError, BadZipFile, zlib.error) as error:
                raise InputError(
                    f"{path}: found no whole embeddings ({error}); expected those of {name}: "
                    f"restore the file, or remove {self._folder} and --resume searches anew"
                ) from None
        return self._files[name]

    def _path(self, name: str, suffix: str) -> Path:
        return self._folder / "pulls" / f"{name}.{suffix}"
