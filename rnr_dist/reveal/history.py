"""What a search has found so far: its event log, its pulls' embeddings, its forget set.

In: finished pulls, failures and fills. Out: all history, rescored under any forget set without a
model call ("Scores are recomputed, responses never", docs/design.md). Invariant: the event log is
the only commit point; a file without its line does not count. What is committed together shares
its files, which are named after the first of it and written before the lines that name them.
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


@dataclass(frozen=True)
class Kept:
    """What a commit brings: its line of the log, and what its files hold under its name."""

    name: str
    line: dict[str, Any]
    samples: Sequence[Sample]
    arrays: dict[str, np.ndarray]


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
        self._waiting: list[Kept] | None = None
        self._arrays: dict[str, dict[str, np.ndarray]] = {}  # by name
        self._files: dict[str, str] = {}  # by name, where it is not the file's
        self._pulls: dict[str, Pull] = {}
        self.moves: list[Move] = []
        self._spent: Counter[int] = Counter()
        self.rechecks: list[Pull] = []
        self.fills: list[Fill] = []
        self.moment = SecondMoment(dimension)
        for event in self._log.read():
            what = self._what(event)
            if "file" in event:
                self._files[_name(what)] = event["file"]
            self._take(event.get("event", ""), what)

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
        self._commit("pull", pull, samples, _arrays(embeddings, pick))

    def add_repeat(self, pull: Pull, arm: int, pick: np.ndarray) -> None:
        """Commit that the bandit chose what had been evaluated: its score was told again."""
        move = Move(pull.outer, arm, f"{pull.id}-again-{len(self.moves)}", pull.score)
        self._commit("repeat", move, arrays=_arrays(np.zeros((0, 0)), pick))

    def add_failure(self, outer: int, arm: int, pull_id: str, cause: str) -> None:
        self._commit("failure", Move(outer, arm, pull_id, None, cause))

    def add_recheck(self, pull: Pull, samples: Sequence[Sample], embeddings: np.ndarray) -> None:
        """Commit an evaluation on fresh contexts; the bandit is not told of it."""
        self._commit("recheck", pull, samples, _arrays(embeddings))

    def add_fill(self, fill: Fill, rows: Sequence[Sample], embeddings: np.ndarray) -> None:
        assert self._waiting is None, "a fill's rows stand in a file of their own"
        self._commit("fill", fill, rows, _arrays(embeddings))

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """What the block commits is written when it ends, by an error too: two files for all of
        it, then the log in one write."""
        self._waiting = []
        try:
            yield
        finally:
            waiting, self._waiting = self._waiting, None
            self._write(waiting)

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
                self.moment.add(self.embeddings(_name(what)))

    def _told(self, move: Move) -> None:
        self.moves.append(move)
        self._spent[move.outer] += move.score is not None

    def _commit(
        self,
        event: str,
        what: Event,
        samples: Sequence[Sample] = (),
        arrays: dict[str, np.ndarray] | None = None,
    ) -> None:
        name, line = _name(what), {"event": event, type(what).__name__.lower(): to_plain(what)}
        kept = Kept(name, line, samples, arrays or {})
        if self._waiting is None:
            self._write([kept])
        else:
            self._waiting.append(kept)
        if kept.arrays:
            self._arrays[name] = kept.arrays
        self._take(event, what)

    def _write(self, group: Sequence[Kept]) -> None:
        """The group's files, then its lines: from then on it is committed."""
        filed = [kept for kept in group if kept.arrays]
        file = filed[0].name if filed else ""
        if samples := [sample for kept in filed for sample in kept.samples]:
            write_rows(self._path(file, "parquet"), samples)
        if filed:
            # Each file of a run costs the driver about a millisecond: what lands together shares.
            held: dict[str, Any] = {
                f"{kept.name}/{key}": of for kept in filed for key, of in kept.arrays.items()
            }
            with replacing(self._path(file, "npz")) as aside, aside.open("wb") as handle:
                np.savez(handle, **held)
        for kept in filed:
            self._files[kept.name] = kept.line["file"] = file
        if group:
            self._log.append(*(kept.line for kept in group))

    def _load(self, name: str) -> dict[str, np.ndarray]:
        if name not in self._arrays:
            path = self._path(self._files.get(name, name), "npz")
            # Before pulls shared files, each had one of its own, and no line named it.
            prefix = f"{name}/" if name in self._files else ""
            try:
                with np.load(path) as file:
                    self._arrays[name] = {key: file[prefix + key] for key in ("embeddings", "pick")}
            except (OSError, ValueError, KeyError, EOFError, BadZipFile, zlib.error) as error:
                raise InputError(
                    f"{path}: found no whole embeddings ({error}); expected those of {name}: "
                    f"restore the file, or remove {self._folder} and --resume searches anew"
                ) from None
        return self._arrays[name]

    def _path(self, name: str, suffix: str) -> Path:
        return self._folder / "pulls" / f"{name}.{suffix}"


def _name(what: Event) -> str:
    """Under which its samples and arrays are kept."""
    match what:
        case Pull():
            return what.id
        case Move():
            return what.pull_id
        case Fill():
            return f"fill-{what.outer}"


def _arrays(embeddings: np.ndarray, pick: np.ndarray | None = None) -> dict[str, np.ndarray]:
    return {"embeddings": embeddings, "pick": np.zeros(0) if pick is None else pick}
