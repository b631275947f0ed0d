"""Who holds what of a cluster in each phase of a run, and whether it fits: one sum, in one place.

In: a config and the nodes of a cluster. Out: a `Placement`, or one InputError. Invariant: pure;
what passes here finds its place in every phase, beside all that lives then, and waits for nothing.
An actor's GPUs lie on one node, a fraction on one GPU, as Ray places them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from rnr_dist.config.cluster import Cluster
from rnr_dist.config.schema import Config
from rnr_dist.errors import InputError

EMBEDDER_GPUS = 0.1
ENGINE = "rnr_engine"  # Ray's resource of which an engine on CPUs takes one
ALMOST = 1e-6  # fractions of a GPU are sums of decimals


@dataclass(frozen=True)
class Node:
    """A machine: cores, whole GPUs, places for engines on CPUs. gib: its memory, gpu_gib: that of
    each GPU; None where nobody has told."""

    cpus: float = 0
    gpus: int = 0
    engines: float = 0
    gib: float | None = None
    gpu_gib: float | None = None


def described(cluster: Cluster) -> list[Node]:
    """The nodes of a cluster that a file describes."""
    return [
        Node(kind.cpus, kind.gpus, kind.rnr_engine, kind.memory_gib, kind.gpu_gib)
        for kind in cluster.nodes
        for _ in range(kind.count)
    ]


@dataclass(frozen=True)
class Actor:
    """One kind of process and what each of `count` holds. key: the config's, for sentences."""

    name: str
    key: str
    count: int
    gpus: float = 0
    cpus: float = 0
    engines: float = 0

    @property
    def kind(self) -> str:
        """The resource that it takes."""
        return "GPU" if self.gpus else "CPU" if self.cpus else ENGINE

    @property
    def each(self) -> float:
        return self.gpus or self.cpus or self.engines


@dataclass(frozen=True)
class Phase:
    """What is done, and who lives while it is."""

    name: str
    actors: tuple[Actor, ...]


@dataclass(frozen=True)
class Placement:
    """How a config is run on a cluster.

    yielding: engines end before a training, and start again when somebody asks. reading_yields: the
    same before arms' features are read. embedder_gpus: what the sentence embedder holds; 0 is a
    CPU. trainings: at the same time.
    """

    phases: tuple[Phase, ...]
    yielding: bool
    reading_yields: bool
    embedder_gpus: float
    trainings: int


@dataclass
class _Free:
    """What is left of a node while actors are put on it."""

    cpus: float
    engines: float
    gpus: list[float] = field(default_factory=list)

    def takes(self, actor: Actor) -> list[int] | None:
        """The GPUs on which it has room here; None where it has none."""
        if self.cpus + ALMOST < actor.cpus or self.engines + ALMOST < actor.engines:
            return None
        wanted = min(actor.gpus, 1.0)
        fitting = [n for n, free in enumerate(self.gpus) if free + ALMOST >= wanted]
        chosen = sorted(fitting, key=lambda n: self.gpus[n])[: round(max(1, actor.gpus))]
        if not actor.gpus:
            return []
        return chosen if len(chosen) >= actor.gpus - ALMOST else None

    def give(self, actor: Actor, gpus: Iterable[int]) -> None:
        self.cpus -= actor.cpus
        self.engines -= actor.engines
        for number in gpus:
            self.gpus[number] -= min(actor.gpus, 1.0)


def fitting(nodes: Sequence[Node], actors: Iterable[Actor]) -> list[int]:
    """How many of each kind find a place, in the order in which they start.

    Each goes where the least is left, as Ray gives fractions of GPUs.
    """
    free = [_Free(node.cpus, node.engines, [1.0] * node.gpus) for node in nodes]
    found = []
    for actor in actors:
        placed = 0
        while placed < actor.count:
            places = [(one, gpus) for one in free if (gpus := one.takes(actor)) is not None]
            if not places:
                break
            node, gpus = min(places, key=lambda place: _left(place[0], place[1], actor))
            node.give(actor, gpus)
            placed += 1
        found.append(placed)
    return found


def _left(node: _Free, gpus: Sequence[int], actor: Actor) -> float:
    if actor.gpus:
        return sum(node.gpus[number] for number in gpus)
    return node.cpus if actor.cpus else node.engines


def fits(nodes: Sequence[Node], actors: Sequence[Actor]) -> bool:
    """Whether all of them have a place at the same time."""
    return fitting(nodes, actors) == [actor.count for actor in actors]


def engines_of(config: Config) -> Actor:
    """The pool's generators."""
    engines = config.engines
    held = {"gpus": engines.gpus_each} if engines.gpus_each else {"engines": 1}
    return Actor("generators", "engines.count", engines.count, **held)


def workers_of(config: Config) -> Actor:
    """The workers of one training."""
    workers = config.workers
    held = {"gpus": workers.gpus_each} if workers.gpus_each else {"cpus": workers.cpus_each}
    return Actor("training worker(s)", "workers.count", workers.count, **held)


def place(config: Config, nodes: Sequence[Node], where: str = "this machine") -> Placement:
    """How the config is run on these nodes. Raises InputError for what would wait for ever.

    where: what the sentences call the nodes.
    """
    reading = _reading(config)
    _require(nodes, reading[:1], where)
    _require(nodes, reading, where)
    return arrange(config, nodes, where)


def _reading(config: Config) -> list[Actor]:
    """The generators, and the one that writes instructions for a while."""
    engines = engines_of(config)
    writer = replace(engines, name="writer beside the generators", key="reveal.writer", count=1)
    return [engines, writer] if config.reveal.writer else [engines]


def arrange(config: Config, nodes: Sequence[Node], where: str = "this machine") -> Placement:
    """`place` where it is known that the generators fit. Raises InputError where a training, alone,
    does not."""
    engines, workers, reading = engines_of(config), workers_of(config), _reading(config)
    _require(nodes, [workers], where)
    features = Actor("reader of arms' features", "workers.gpus_each", 1, gpus=1)
    reads = [features] if config.way == "merge" and workers.gpus else []
    # On CPUs engines hold no cores, so they are in nobody's way.
    both = bool(engines.gpus and workers.gpus)
    yielding = both and not fits(nodes, [engines, workers])
    reading_yields = both and not fits(nodes, [engines, *reads])
    training = [workers] if yielding else [engines, workers]
    featuring = reads if reading_yields else [engines, *reads]
    embedder = Actor("embedder", "reveal.embedder", 1, gpus=EMBEDDER_GPUS)
    before = training[:-1]
    at_once = 1 if yielding else _at_once(nodes, before, workers)
    # It lives from its first text to the end of the run, so it needs a place in every phase; and it
    # is small: a training more at the same time is worth more than its GPU.
    lives = [_with(embedder, actors) for actors in (reading, training, featuring)]
    on_gpu = bool(engines.gpus or workers.gpus) and all(fits(nodes, actors) for actors in lives)
    on_gpu = on_gpu and (yielding or _at_once(nodes, [*before, embedder], workers) == at_once)
    beside = [embedder] if on_gpu else []
    names = ("reading", "training", "arm features")
    phases = [
        Phase(name, (*actors, *beside))
        for name, actors in zip(names, (reading, training, featuring), strict=True)
        if name != "arm features" or reads
    ]
    return Placement(
        tuple(phases), yielding, reading_yields, EMBEDDER_GPUS if on_gpu else 0.0, at_once
    )


def generators_with_room(config: Config, nodes: Sequence[Node]) -> int:
    """How many generators, `engines.most` at most, have a place beside all else in each phase in
    which they live. 0 where the rest alone has none."""
    try:
        phases = arrange(config, nodes).phases
    except InputError:
        return 0
    most, found = replace(engines_of(config), count=config.engines.greatest), []
    for phase in phases:
        others = [actor for actor in phase.actors if actor.key != most.key]
        if len(others) < len(phase.actors):
            *beside, generators = fitting(nodes, [*others, most])
            found.append(generators if beside == [actor.count for actor in others] else 0)
    return min(found)


def asked_of(config: Config, generators: int) -> list[dict[str, float]]:
    """What a cluster must hold for so many generators beside one training: a bundle for each."""
    actors = [replace(engines_of(config), count=generators), workers_of(config)]
    return [{actor.kind: actor.each} for actor in actors for _ in range(actor.count)]


def _with(embedder: Actor, actors: Sequence[Actor]) -> list[Actor]:
    """The actors in the order in which they start: engines, the embedder, then the others."""
    lasting = [actor for actor in actors if actor.key in ("engines.count", "reveal.writer")]
    return [*lasting, embedder, *(actor for actor in actors if actor not in lasting)]


def _at_once(nodes: Sequence[Node], before: Sequence[Actor], workers: Actor) -> int:
    """Trainings that fit beside what lives anyway."""
    most = int(sum(node.gpus if workers.gpus else node.cpus for node in nodes)) + 1
    *_, found = fitting(nodes, [*before, replace(workers, count=most)])
    return max(1, found // workers.count)


def _require(nodes: Sequence[Node], actors: Sequence[Actor], where: str) -> None:
    """Raises InputError where the last of the actors finds no place beside the others."""
    last = actors[-1]
    *_, found = fitting(nodes, actors)
    if found >= last.count:
        return
    unit = {"GPU": "GPU(s)", "CPU": "core(s)", ENGINE: f"{ENGINE} slot(s)"}[last.kind]
    has = {
        "GPU": sum(node.gpus for node in nodes),
        "CPU": sum(node.cpus for node in nodes),
        ENGINE: sum(node.engines for node in nodes),
    }[last.kind]
    apart = f" on {len(nodes)} nodes" if len(nodes) > 1 else ""
    raise InputError(
        f"{last.key}: found {last.count} {last.name} of {last.each:g} {unit}, {where} has {has:g} "
        f"{unit}{apart}; expected at most {found}"
    )


def require_memory(
    nodes: Sequence[Node], needs: Mapping[str, tuple[Actor, float]], where: str = "this machine"
) -> None:
    """Raises InputError where an actor needs more of a GPU's memory than its part of the GPU.

    needs: by what the sentence calls it, the actor and GiB on each of its GPUs. Asked of the
    smallest GPU, and not where nobody has told what that holds.
    """
    cards = [node.gpu_gib for node in nodes if node.gpus]
    if not cards or None in cards:
        return
    smallest = min(card for card in cards if card)
    for name, (actor, gib) in needs.items():
        share = min(actor.gpus, 1.0)
        if actor.gpus and gib > share * smallest:
            part = f"its part, {share:g}, of a GPU" if share < 1 else "a GPU"
            raise InputError(
                f"{name}: each of {actor.count} {actor.name} needs about {gib:.1f} GiB, {where} "
                f"has {share * smallest:.1f} GiB in {part}; expected less: smaller batches, more "
                "GPUs, or gradient_checkpointing"
            )


def require_host(
    nodes: Sequence[Node], workers: Actor, needs: Mapping[str, float], where: str = "this machine"
) -> None:
    """Raises InputError where the workers of a training that share a machine need more memory of it
    than it has: GiB of each, by what the sentence calls it. Not asked where nobody has told."""
    for node in nodes:
        together = min(workers.count, node.gpus)
        for name, gib in needs.items():
            if node.gib is not None and together * gib > node.gib:
                raise InputError(
                    f"{name}: {together} {workers.name} on one machine need about "
                    f"{together * gib:.0f} GiB of its memory, {where} has {node.gib:g} GiB in one; "
                    "expected less: zero_stage 3, which loads the model in parts, or no offload"
                )
