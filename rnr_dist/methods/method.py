"""Methods of forgetting: the protocol, and whether a task can serve one.

In: materials. Out: training items and a model. Invariant: one file a method, with its settings, its
objective or composition, what it needs and its grid; adding one is that file and a registry line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

from rnr_dist.config.methods import MethodSettings, Way
from rnr_dist.config.registry import method_class
from rnr_dist.config.schema import Config
from rnr_dist.config.training import Training
from rnr_dist.errors import InputError
from rnr_dist.tasks.task import Task
from rnr_dist.train.collate import Item
from rnr_dist.train.materials import Materials, Need
from rnr_dist.types import Adapter, ModelRef, Side
from rnr_dist.weights.targets import require_trained


class Method(Protocol):
    """One file. `adapters`: those that it trains when it is merged, each name with its side;
    `refined` lets forgotten sequences leave the epochs."""

    name: ClassVar[str]
    needs: ClassVar[frozenset[Need]]
    Objective: ClassVar[type[Any] | None]
    """Its loss (`train.objectives.Objective`), whose `Settings` are its section of a training; None
    where it trains on plain texts."""
    adapters: ClassVar[Mapping[str, Side]]
    refined: ClassVar[bool]

    @classmethod
    def settings(cls, way: Way) -> MethodSettings | None:
        """Its paper's settings when it is run that way; None where it cannot be."""
        ...

    def items(self, adapter: str, materials: Materials, training: Training) -> Sequence[Item]:
        """What the adapter of that name is trained on; by epochs one item a forget sequence, in
        their order. What an objective retains beside (`parts`: from none to some) is added later.
        Raises InputError where nothing fits."""
        ...

    def model(
        self, base: ModelRef, adapters: Mapping[str, Adapter], strength: float, folder: Path
    ) -> ModelRef:
        """The candidate of that strength; files that it needs go into `folder`."""
        ...


def make_method(name: str) -> Method:
    """The method of that name. Raises InputError."""
    found: Method = method_class(name)()
    return found


def require_served(method: Method, task: Task, way: Way) -> None:
    """Raises InputError where the task cannot give what the method needs, or not in this way."""
    needs: set[str] = {*method.needs, *(("sequences",) if way == "epochs" else ())}
    missing = sorted(needs - set(task.gives))
    if missing:
        raise InputError(
            f"method {method.name}: needs {', '.join(missing)}, which this task does not give; it "
            f"gives {', '.join(sorted(task.gives))}"
        )
    if type(method).settings(way) is None:
        raise InputError(f"method {method.name}: cannot be run by {way}")


def require_trainable(config: Config, checkpoint: Path) -> None:
    """Raises InputError where a method is to train a layer that the checkpoint has not."""
    for name in config.compared:
        settings = config.methods.found(name)
        for key, training in settings.trainings(f"methods.{name}").items() if settings else ():
            if training.parameters == "full":
                continue
            trusted = config.trust_remote_code
            require_trained(checkpoint, training, key, trusted)
            if (layer := getattr(training.objective, "layer", None)) is not None:
                steered = training.model_copy(update={"layers": [layer]})
                require_trained(checkpoint, steered, f"{key}.objective.layer", trusted)
