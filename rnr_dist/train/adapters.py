"""Trainings of a run, each done once: what has been trained with the same inputs is taken as it is.

In: items, a training, the model to train on. Out: an `Adapter` in the run's folder. Invariant: an
adapter's note, with the fingerprint of all that it came from, is written after the adapter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rnr_dist.config.schema import Config
from rnr_dist.config.training import Training
from rnr_dist.run.directory import read, write
from rnr_dist.run.progress import say
from rnr_dist.run.tracking import Tracker
from rnr_dist.train.collate import Item
from rnr_dist.train.launch import train_adapter
from rnr_dist.types import Adapter, ModelRef, digest


@dataclass(frozen=True)
class AdapterNote:
    """A trained adapter, and the fingerprint of all that it came from."""

    fingerprint: str
    adapter: Adapter


@dataclass(frozen=True)
class Trainings:
    """Adapters and Ray Train's own state go below `folder`; `start` brings Ray up."""

    config: Config
    folder: Path
    tracker: Tracker
    start: Callable[[], object]

    def adapter(
        self,
        name: str,
        items: Sequence[Item],
        training: Training,
        role: Literal["forget", "retain"],
        model: ModelRef,
    ) -> Adapter:
        """The adapter of that name, trained on `model` if it is not there already."""
        config = self.config
        members = [[[r, [*e.token_ids], e.prompt_tokens] for r, e in i.members] for i in items]
        settings = training.model_dump(mode="json")
        fingerprint = digest([members, model.digest, settings, config.seed])
        note = self.folder / "adapters" / f"{name}.json"
        if note.exists() and (kept := read(note, AdapterNote)).fingerprint == fingerprint:
            return kept.adapter
        self.start()
        say(f"training {name} on {len(items)} examples")

        def log(report: dict[str, float]) -> None:
            told = {key: report[key] for key in ("loss", "tokens_per_second")}
            self.tracker.metrics(told, int(report["step"]))

        # ZeRO's states are one a worker: others can't go on with them.
        attempt = digest([fingerprint, config.workers.model_dump(mode="json")])[:8]
        with self.tracker.nested(f"train {name}", settings):
            adapter = train_adapter(
                items,
                model,
                training,
                config.workers,
                self.folder / "adapters" / name,
                role,
                config.seed,
                self.folder / "train" / f"{name}-{attempt}",
                log,
                config.trust_remote_code,
            )
        write(note, AdapterNote(fingerprint, adapter))
        return adapter
