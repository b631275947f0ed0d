"""Whether a model, its engines and the nodes take the trainings of a config, a sweep's too.

In: a config, its task, the model's folder. Out: nothing, or one InputError that names the training,
of a grid or a sweep by its place. Invariant: no weights are loaded and nothing is started.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from rnr_dist.commands.estimate import Estimate, estimate
from rnr_dist.config.schema import Config
from rnr_dist.config.training import Training
from rnr_dist.errors import InputError
from rnr_dist.machine.placement import Node, require_host, require_memory, workers_of
from rnr_dist.methods.method import make_method, require_served
from rnr_dist.tasks.task import Task
from rnr_dist.weights.architecture import require_reloadable
from rnr_dist.weights.checkpoints import weight_files
from rnr_dist.weights.targets import require_trained

There = tuple[str, Sequence[Node]]  # what a sentence calls nodes, and these


def check_sweep(
    config: Config, task: Task | None, folder: Path | None, there: There | None = None
) -> None:
    """Raises InputError where a place of `sweep` cannot be trained. A recipe without one has none.

    task, folder: None where its data, or the model's config.json, are not here yet. folder: of the
    model, or of that file alone. there: left out, no memory is asked about.
    """
    if config.way != "epochs":
        return
    if task:
        require_served(make_method(config.sweep.method), task, config.way)
    if folder and all(path.exists() for path in weight_files(folder)):
        require_trainings(config, folder, config.swept.items())
    if folder and there:
        require_costs(estimate(config, folder, config.swept), there)


def require_trainings(
    config: Config, folder: Path, trainings: Iterable[tuple[str, Training]]
) -> None:
    """Raises InputError where one of them, by key, does not fit the model or its engines."""
    for key, training in trainings:
        if training.parameters == "full":
            require_full(config, folder, key)
        else:
            require_trained(folder, training, key, config.trust_remote_code)


def require_full(config: Config, folder: Path, key: str) -> None:
    """Raises InputError where engines of the model could not take weights that the training under
    `key` makes of all of its own."""
    if config.engines.weights == "lora":
        raise InputError(
            f"engines.weights: found lora, but {key} trains all weights, of which nothing lies "
            "beside the base's; expected reload"
        )
    require_reloadable(folder, key, config.trust_remote_code)


def require_costs(cost: Estimate, there: There) -> None:
    """Raises InputError where engines or a training need more memory than the nodes have."""
    where, nodes = there
    require_memory(nodes, cost.needs, where)
    require_host(nodes, workers_of(cost.config), cost.on_machines, where)
