"""What a config costs on a model of a known shape: lines for `rnr check` and for a run's begin.

In: a config, a folder with the model's config.json, where everything is placed. Out: lines, and
what each actor needs of a GPU. Invariant: loads no weights and starts nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rnr_dist.commands.work import Work
from rnr_dist.config.schema import Config
from rnr_dist.config.training import Training
from rnr_dist.machine.cost import (
    GIB,
    GPU_SHARE,
    Memory,
    engine_memory,
    generating_seconds,
    host_memory,
    training_memory,
    training_seconds,
)
from rnr_dist.machine.placement import Actor, engines_of, workers_of
from rnr_dist.run.forecast import duration
from rnr_dist.train.objectives import make_objective
from rnr_dist.weights.node_cache import KEPT
from rnr_dist.weights.shape import Shape, shape_of, trained_of

# Driver, Ray's own processes, oracle and embedder with their models, on the machine of the driver.
DRIVER_GIB = 3.0
# Until an engine answers and until workers train, read here, and what a disk gives of weights.
ENGINE_SECONDS, WORKERS_SECONDS, BYTES_A_SECOND = 25.0, 20.0, 1e9


@dataclass(frozen=True)
class Estimate:
    """Memory of each engine, and of a worker in each training, by the training's key. hosts: the
    same of a worker on a GPU, in its machine's memory."""

    config: Config
    shape: Shape
    engine: Memory
    trainings: dict[str, tuple[Training, Memory]]
    hosts: dict[str, Memory]

    @property
    def needs(self) -> dict[str, tuple[Actor, float]]:
        """What `placement.require_memory` asks, by the keys that say it."""
        engines, workers = engines_of(self.config), workers_of(self.config)
        share = GPU_SHARE if engines.gpus >= 1 else 1.0
        told = {"engines": (engines, self.engine.total / GIB / share)}
        for key, (_, memory) in self.trainings.items():
            told[key] = workers, memory.total / GIB
        return told

    @property
    def on_machines(self) -> dict[str, float]:
        """What `placement.require_host` asks: GiB of each worker, by the trainings' keys."""
        return {key: memory.total / GIB for key, memory in self.hosts.items()}

    def lines(self, work: Sequence[Work], yielding: bool = False) -> list[str]:
        """What `rnr check` prints: memory by phase, disk, time; without work no time.

        yielding: engines end for each training.
        """
        return [*self._memory(yielding), *self._disk(), *self._time(work, yielding)]

    def _memory(self, yielding: bool) -> Iterator[str]:
        config = self.config
        yield f"memory  {config.engines.count} generator(s), each {self.engine}"
        for key, (_, memory) in self.trainings.items():
            yield f"memory  {config.workers.count} worker(s) of {key}, each {memory}"
            if key in self.hosts:
                yield f"memory  of its machine each of these needs {self.hosts[key]}"
        if yielding:
            yield "memory  generators end before each training and start again: one GPU serves both"
        if not (config.engines.gpus_each or config.workers.gpus_each):
            yield f"memory  in all {self.host_gib:.1f} GiB, {DRIVER_GIB:g} of them beside these"

    @property
    def host_gib(self) -> float:
        """GiB of a run on CPUs at its largest: engines, the largest training, the driver."""
        largest = max((memory.total for _, memory in self.trainings.values()), default=0)
        workers, engines = self.config.workers.count, self.config.engines.count
        return (engines * self.engine.total + workers * largest) / GIB + DRIVER_GIB

    def _disk(self) -> Iterator[str]:
        copy = 2 * self.shape.parameters / GIB
        if self.config.engines.weights == "reload" and self.config.way == "merge":
            yield f"disk    {KEPT} merged copies of {copy:.1f} GiB on each node with generators"
        if any(training.parameters == "full" for training, _ in self.trainings.values()):
            yield f"disk    {2 * copy:.1f} GiB for each model that is trained whole"

    def _time(self, work: Sequence[Work], yielding: bool) -> Iterator[str]:
        total = 0.0
        for stage in work:
            seconds = self.seconds(stage, yielding)
            total += seconds
            tokens = sum(stage.trained.values())
            yield (
                f"time    {stage.stage}: about {duration(seconds)} at most, "
                f"for {stage.generated:,} generated and {tokens:,} trained tokens"
            )
        if work:
            yield f"time    in all about {duration(total)} at most, within a factor of two"

    def seconds(self, work: Work, yielding: bool) -> float:
        """What a stage takes, with the starts of engines and of trainings."""
        config, shape = self.config, self.shape
        load = 2 * shape.parameters / BYTES_A_SECOND
        engines = bool(work.generated) + work.starts * yielding
        took = engines * (ENGINE_SECONDS + load) + work.starts * (WORKERS_SECONDS + load)
        took += generating_seconds(shape, work.generated, config.engines)
        for key, tokens in work.trained.items():
            training, _ = self.trainings[key]
            took += training_seconds(shape, tokens, training, config.workers)
        return took


def estimate(
    config: Config, folder: Path, trainings: Mapping[str, Training] | None = None
) -> Estimate:
    """The estimate for the model in `folder`, of which its config.json is enough.

    trainings: by key; left out, those of the recipe's own method."""
    trusted = config.trust_remote_code
    shape = shape_of(folder, trusted)
    found, hosts = {}, {}
    for key, training in (trainings or dict(trainings_of(config))).items():
        parts = make_objective(training.objective).parts
        pairs = {"learn": config.pairing.k}  # of a part that may take more
        sequences = sum(pairs.get(part, most) for part, (_, most) in parts.items())
        if longest := getattr(config.task, "max_tokens", 0):
            training = training.model_copy(update={"max_tokens": min(longest, training.max_tokens)})
        trained = trained_of(folder, training, trusted)
        looked = config.way == "epochs"
        memory = training_memory(shape, trained, training, config.workers, sequences, looked)
        found[key] = training, memory
        if config.workers.gpus_each:
            hosts[key] = host_memory(shape, trained, training, config.workers)
    return Estimate(config, shape, engine_memory(shape, config.engines), found, hosts)


def trainings_of(config: Config) -> Iterator[tuple[str, Training]]:
    """The trainings of the recipe's own method, by the key that says what they train."""
    if config.way == "merge":
        if (teach := getattr(config.task, "teach", None)) is not None:
            yield "task.teach.training", teach.training
        for side in ("forget", "retain"):
            yield f"release.{side}", getattr(config.release, side)
    elif config.memorise.enabled:
        yield "memorise.training", config.memorise.training
    if (settings := config.methods.found(config.own_method)) is not None:
        yield from settings.trainings(f"methods.{config.own_method}").items()
