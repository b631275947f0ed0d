"""Which setting of a method is taken, and what others would do: places of a grid, by Ray Tune.

In: a method and overrides of its training. Out: what each reached on the tuning sequences.
Invariant: the forget sequences play no part; a place is a file once it is finished, so a sweep
goes on where it was; one that ends in a loss that is no number has lost and ends no other.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import log
from pathlib import Path
from typing import Any

import numpy as np

from rnr_dist.config.methods import MethodSettings
from rnr_dist.errors import InputError
from rnr_dist.icu.unlearner import Unlearner
from rnr_dist.machine.trials import Search, run_trials
from rnr_dist.measures.perplexity import perplexity, windows
from rnr_dist.measures.pool_reader import PoolReader
from rnr_dist.measures.results import Auc
from rnr_dist.measures.sequence_rows import POOL_NLL
from rnr_dist.run.directory import read_json, write_json
from rnr_dist.run.progress import progress_bar, say
from rnr_dist.types import ModelRef, Split, digest


@dataclass(frozen=True)
class Trials:
    """Trains one method's places on the tuning sequences, and reads what they have kept.

    folder: of the places' files and models. at_once: trainings that the cluster has room for.
    """

    unlearner: Unlearner
    settings: MethodSettings
    folder: Path
    at_once: int

    def choose(self) -> dict[str, Any]:
        """`{"chosen": overrides, "places": [...]}` of the method's grid.

        Among places that met both limits the one that keeps most: the lowest NLL of general text
        and of the pool, both counted alike; none did: the least violation. A grid of one place is
        taken as it is. Raises InputError when every place ended in a loss that is no number.
        """
        grid = self.settings.grid
        if len(grid) == 1:
            return {"chosen": grid[0], "places": []}
        if not self.unlearner.bench.config.memorise.enabled:
            say(f"{self.unlearner.name}: chosen on task.tuning as it was given, nothing memorised")
        places = self.run(grid)
        finished = [place for place in places if "lost" not in place]
        if not finished:
            raise InputError(places[0]["lost"])
        winner = min(
            finished,
            key=lambda place: (place["violation"], log(place["perplexity"]) + place["pool"]),
        )
        return {"chosen": winner["overrides"], "places": places}

    def run(self, grid: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """What each place of the grid reached, in its order; `lost` says why one reached nothing.

        violation: how far the best epoch is from both limits (0: met). epochs: up to the best one.
        perplexity: of general text. pool: nats a token. auc: whether the tuning sequences are told
        from never-seen ones by their NLL (.5: they are not).
        """
        missing = [place for place in grid if not self._file(place).exists()]
        if missing:
            self._tune(missing)
        return [read_json(self._file(place)) for place in grid]

    def _file(self, overrides: Mapping[str, Any]) -> Path:
        name = f"{self.unlearner.name}-{digest(overrides)[:8]}"
        return self.folder / "tuning" / f"{name}.json"

    def _tune(self, missing: Sequence[Mapping[str, Any]]) -> None:
        from ray import tune

        if self.unlearner.bench.placement.yielding:
            # Engines end for each training and start again, which only the driver can do.
            for place in missing:
                self.finish(place)
                self._tell(place)
            return
        # A trial's process starts nothing: Ray, and who answers there, are started before.
        _ = self.unlearner.bench.endpoint

        def trial(setting: dict[str, Any], trials: Trials) -> None:
            trials.finish(setting["given"])

        own = self  # of the driver, which alone tells MLflow
        describe = f"{self.unlearner.name}: settings on the tuning sequences"
        with progress_bar(describe, len(missing)) as advance:

            class Shown(tune.Callback):
                done = 0

                def on_trial_result(
                    self, iteration: int, trials: list[Any], trial: Any, result: Any, **info: Any
                ) -> None:
                    told = json.dumps(trial.config["given"])
                    if "memorisation" in result:
                        told += f", epoch {result['epoch']}: MA {result['memorisation']:.3f}"
                    advance(self.done, told)

                def on_trial_complete(
                    self, iteration: int, trials: list[Any], trial: Any, **info: Any
                ) -> None:
                    self.done += 1
                    advance(self.done)
                    own.note(trial.config["given"])

            run_trials(
                trial,
                [dict(place) for place in missing],
                Search(
                    f"{self.unlearner.name}-{digest([*missing])[:8]}",
                    self.folder / "tune",
                    self.at_once,
                    callbacks=(Shown(),),
                ),
                trials=self._portable(),
            )
        for place in missing:
            self._tell(place)

    def _tell(self, place: Mapping[str, Any]) -> None:
        say(f"{self.unlearner.name} {json.dumps(place)}: {_told(read_json(self._file(place)))}")

    def note(self, overrides: Mapping[str, Any]) -> None:
        """Tell MLflow what a finished place has reached."""
        place, tracker = read_json(self._file(overrides)), self.unlearner.bench.tracker
        told = " ".join(f"{key}={value}" for key, value in overrides.items())
        with tracker.nested(f"setting {self.unlearner.name} {told}".strip(), overrides):
            figures = {k: float(v) for k, v in place.items() if isinstance(v, (int, float))}
            tracker.metrics(figures)
            if "lost" in place:
                tracker.tag("lost", place["lost"])

    def _portable(self) -> Trials:
        """These as they reach a trial's process: what belongs to the driver stays there."""
        trainings = replace(
            self.unlearner.trainings, folder=self.folder.absolute(), listener=TrialTracker()
        )
        unlearner = replace(self.unlearner, trainings=trainings)
        return replace(self, unlearner=unlearner, folder=self.folder.absolute())

    def finish(self, overrides: Mapping[str, Any]) -> None:
        """Train one place to its file; runs in a trial."""
        path, own = self._file(overrides), self.unlearner
        place: dict[str, Any] = {"overrides": dict(overrides)}
        training = self.settings.trained_with(overrides)
        try:
            result = own.forget(f"{path.stem}-tuning", own.task.tuning, training)
        except InputError as error:
            write_json(path, {**place, "lost": str(error)})
            return
        if len(result.epochs) == 1:
            told = (
                f"task.tuning: all {len(own.task.tuning)} sequences count as forgotten before the "
                "first epoch, so no setting can be chosen on them; expected sequences that the "
                f"model knows, or one place in methods.{own.name}.grid"
            )
            write_json(path, {**place, "lost": told})
            return
        best = result.epochs[result.best]
        place |= {
            "violation": best["violation"],
            "extraction": float(np.mean(best["extraction"])),
            "memorisation": float(np.mean(best["memorisation"])),
            "epochs": result.best,
            **self._kept(result.model),
        }
        write_json(path, place)
        if training.parameters == "full":
            # As large as the model, and read for the last time.
            for file in Path(result.model.checkpoint).glob("*.safetensors"):
                file.unlink()

    def _kept(self, model: ModelRef) -> dict[str, float]:
        """Perplexity of the general text that settings are chosen on, the pool's NLL, the AUC."""
        own = self.unlearner
        bench, task = own.bench, own.task
        settings = bench.config.perplexity
        reader = PoolReader(bench.endpoint, model)
        analogous, unseen, tuning = (
            reader.nll(part, POOL_NLL)
            for part in (task.pool[: settings.max_windows], task.unseen, task.tuning)
        )
        general = windows(task.general[Split.SEARCH], bench.tokenizer, settings)
        low, high = (tuple(one.numerator / one.denominator) for one in (tuning, unseen))
        return {
            "perplexity": perplexity(bench.endpoint.run(model, general)).value,
            "pool": analogous.value,
            "auc": Auc(low, high).value,
        }


class TrialTracker:
    """In a trial there is no MLflow: what a training tells goes to the driver, through Tune."""

    @contextlib.contextmanager
    def nested(self, name: str, params: Mapping[str, Any]) -> Iterator[None]:
        yield

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        from ray import tune

        tune.report({**values, "epoch": step})


def _told(place: Mapping[str, Any]) -> str:
    if "lost" in place:
        return f"lost ({place['lost']})"
    return (
        f"epoch {place['epochs']}, EL {place['extraction']:.3f}, MA {place['memorisation']:.3f}, "
        f"perplexity {place['perplexity']:.1f}, pool {place['pool']:.2f}"
    )
