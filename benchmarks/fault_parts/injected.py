"""Faults, each injected for real into small runs: kills, a full disk, a tracker that goes...

In: the undisturbed runs. Out: a row a fault: what was lost, doubled, other than undisturbed, or
left behind; empty where nothing was. Invariant: a fault that could not be injected is no success.
"""

from __future__ import annotations

import copy
import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.fault_parts.around import (
    cluster,
    fill_up,
    full_store,
    kill_tree,
    server,
    small_disk,
)
from benchmarks.fault_parts.damaged import Undisturbed
from benchmarks.fault_parts.outcome import TRACEBACK
from benchmarks.fault_parts.place import REVEAL
from benchmarks.fault_parts.rows import Row, Rows
from benchmarks.fault_parts.running import NotMetError, Running, short_folder
from benchmarks.fault_parts.small import arguments, comparable, figures_of, rows_of

GENERATOR, BANDIT, RANK = "ray::Generator", "ray::BanditActor", "ray::RayTrainWorker"
TRIAL = ("ray::ImplicitFunc", "ray::trial")
DOWN_SECONDS = 60.0
DISK_MIB = 24
Lost = list[str]


class Scene:
    """A place for one fault, and the checks after it."""

    def __init__(self, undisturbed: Undisturbed, recipe: str):
        self.undisturbed, self.recipe = undisturbed, recipe
        self.place = undisturbed.fresh()
        self.run = self.place / "hit"
        self.scratch = short_folder()
        self.lost: Lost = []
        self._started: list[Running] = []

    @property
    def events(self) -> int:
        """Lines of the search's log."""
        path = self.run / "reveal" / "events.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0

    def start(
        self, *where: str, more: tuple[str, ...] = (), environment: dict[str, str] | None = None
    ) -> Running:
        where = where or ("--run", str(self.run))
        words = arguments(self.recipe, *where, more=more)
        self._started.append(Running(words, self.place, environment, self.scratch))
        return self._started[-1]

    def resume(self, **named: Any) -> Running:
        return self.start("--resume", str(self.run), **named)

    def cleaned(self) -> None:
        """`rnr clean`, after which nothing of earlier commands is left."""
        cleaning = Running(["clean"], self.place, scratch=self.scratch)
        self._started.append(cleaning)
        if (code := cleaning.end()) != 0:
            self.lost.append(f"rnr clean ended with {code}: {cleaning.output[-300:]}")
        self.cleared(cleaning)

    def ended_well(self, running: Running) -> None:
        """The run ends with 0, its rows and figures are the undisturbed ones, nothing is left."""
        code = running.end()
        if code != 0:
            self.lost.append(f"ended with {code}: {running.output[-700:]}")
        else:
            self.lost += self._differences()
        self.cleared(running)

    def ended_by(self, running: Running, code: int, *says: str, files: bool = True) -> None:
        """It ends with this code, a sentence that says so, and without a trace; `files`: also
        without temporary ones."""
        found, told = running.end(), running.output
        if found != code:
            self.lost.append(f"ended with {found}, expected {code}: {told[-700:]}")
        if TRACEBACK in told:
            self.lost.append(f"a traceback: {told[-700:]}")
        self.lost += [f"does not say {one!r}: {told[-300:]}" for one in says if one not in told]
        self.cleared(running, files)

    def cleared(self, running: Running, files: bool = True) -> None:
        self.lost += [f"left behind: {one}" for one in running.left_behind(files)]
        running.clear()

    def close(self) -> None:
        """End what a fault that could not be injected has left running."""
        for running in self._started:
            running.clear()
        shutil.rmtree(self.scratch, ignore_errors=True)

    def _differences(self) -> Lost:
        found, known = rows_of(self.run), self.undisturbed.rows[self.recipe]
        lost = []
        if comparable(found) != comparable(known):
            lost.append(f"rows {comparable(found)}, undisturbed {comparable(known)}"[:600])
        if found.get("pulls") != found.get("different pulls"):
            lost.append("a pull counts twice")
        if self.recipe == "icu":
            figures, wanted = figures_of(self.run), self.undisturbed.figures["icu"]
            asked = filter(self.undisturbed.drawn_nothing_for, wanted)
            other = [name for name in asked if figures.get(name) != wanted[name]]
            lost += [f"other figures: {len(other)}, such as {other[:3]}"] if other else []
        return lost


def killed(*names: str) -> Callable[[Scene], None]:
    """SIGKILL to the first process of such a name, once; the run goes on by itself."""

    def inject(scene: Scene) -> None:
        running = scene.start()
        running.kill(*names)
        scene.ended_well(running)

    return inject


def killed_in_the_search(name: str) -> Callable[[Scene], None]:
    """SIGKILL once the first pulls are there."""

    def inject(scene: Scene) -> None:
        running = scene.start()
        running.wait_for(lambda: scene.events >= 2, "two pulls")
        running.kill(name)
        scene.ended_well(running)

    return inject


def killed_rank(scene: Scene) -> None:
    """A training worker, in its first training."""
    running = scene.start()
    running.wait_for(lambda: list(scene.run.rglob("reports.jsonl")), "a training")
    running.kill(RANK)
    scene.ended_well(running)


def killed_driver(scene: Scene) -> None:
    """SIGKILL to the driver in a training; then --resume."""
    running = scene.start()
    running.wait_for(lambda: running.of_name(RANK), "a training")
    running.process.kill()
    running.end()
    scene.cleared(running, files=False)  # nobody could remove them
    scene.cleaned()
    scene.ended_well(scene.resume())


def terminated(scene: Scene) -> None:
    """SIGTERM: 143, how to go on; then --resume."""
    running = scene.start()
    running.wait_for(lambda: running.of_name(RANK), "a training")
    running.process.send_signal(signal.SIGTERM)
    scene.ended_by(running, 143, "--resume")
    scene.ended_well(scene.resume())


def cut_state(scene: Scene) -> None:
    """SIGKILL to the driver in a training, whose kept state is half gone; then --resume."""
    often = ("workers.checkpoint_seconds=0",)
    running = scene.start(more=often)

    def states() -> list[Path]:
        return [path for path in scene.run.rglob("checkpoint_*/**/*.pt") if path.stat().st_size]

    running.wait_for(states, "a training's state")
    running.process.kill()
    running.end()
    for path in states():
        os.truncate(path, path.stat().st_size // 2)
    scene.cleared(running, files=False)
    scene.ended_well(scene.resume(more=often))


def killed_raylet(scene: Scene) -> None:
    """SIGKILL to Ray's own process of this machine: 1, how to go on; then --resume."""
    running = scene.start()
    running.wait_for(lambda: scene.events >= 1, "a pull")
    [raylet] = [one for one in running.of_name("raylet") if one.name() == "raylet"]
    raylet.kill()
    # Ray's logs stay, to be read; the engine was killed, and the next run removes what it merged.
    scene.ended_by(running, 1, "has ended", "--resume", files=False)
    scene.ended_well(scene.resume())


def killed_node(scene: Scene) -> None:
    """A worker node with a generator goes; another one comes after a while."""
    with cluster(cpus=2, slots=0) as found:
        node = found.add(cpus=2, slots=1)
        time.sleep(10)
        running = scene.start(environment=found.joining())
        running.wait_for(lambda: scene.events >= 1, "a pull")
        kill_tree(node.pid)
        time.sleep(10)
        found.add(cpus=2, slots=1)
        scene.ended_well(running)


def tracker_down_for_a_minute(scene: Scene) -> None:
    """The MLflow server goes and comes back; in the end it has everything."""
    with server(scene.place) as tracker:
        known = (f"tracking.uri={tracker.uri}",)
        running = scene.start(more=known)
        running.wait_for(lambda: "starting Ray" in running.output, "a run under way")
        tracker.stop()
        time.sleep(DOWN_SECONDS)
        if running.process.poll() is not None:  # a quick machine: it ended within the minute
            scene.ended_well(running)
            tracker.start()
            running = scene.resume(more=known)
        else:
            tracker.start()
        scene.ended_well(running)
        _tracked(scene, tracker.database)


def tracker_down_for_good(scene: Scene) -> None:
    """The MLflow server goes; the run ends well, and another server gets everything later."""
    with server(scene.place) as tracker:
        running = scene.start(more=(f"tracking.uri={tracker.uri}",))
        running.wait_for(lambda: scene.events >= 1, "a pull")
        tracker.stop()
        scene.ended_well(running)
        if not (scene.run / "mlflow-spool.jsonl").stat().st_size:
            scene.lost.append("the spool is empty, though nobody took its entries")
        tracker.start()
        scene.ended_well(scene.resume(more=(f"tracking.uri={tracker.uri}",)))
        _tracked(scene, tracker.database)


def _tracked(scene: Scene, database: str) -> None:
    """The server has every nested run that the undisturbed one has, each once."""
    found = tracked_runs(database)
    wanted = tracked_runs(f"sqlite:///{scene.place / 'mlflow.db'}")
    doubled = [name for name, count in found.items() if count > wanted[name]]
    missing = [name for name in wanted if not found[name] and "joint" not in name]
    if doubled or missing:
        scene.lost.append(f"MLflow: missing {missing}, doubled {doubled}")
    if (scene.run / "mlflow-spool.jsonl").stat().st_size:
        scene.lost.append("MLflow: entries still wait in the spool")


def tracked_runs(database: str) -> Counter[str]:
    """How often each name of a nested run stands in a database, below the runs of `rr`."""
    from mlflow import MlflowClient

    client = MlflowClient(database)
    experiments = [one.experiment_id for one in client.search_experiments()]
    runs = {one.info.run_id: one for one in client.search_runs(experiments, max_results=5000)}

    def uppermost(one: Any) -> Any:
        above = one.data.tags.get("mlflow.parentRunId")
        return uppermost(runs[above]) if above in runs else one

    below = [one for one in runs.values() if uppermost(one).info.run_name == REVEAL["name"]]
    return Counter(one.info.run_name for one in below if uppermost(one) is not one)


def full_disk(scene: Scene) -> None:
    """The run directory's disk fills up in the search; then there is room again."""
    with small_disk(scene.place / "small", DISK_MIB) as disk:
        scene.run = disk / "hit"
        running = scene.start()
        running.wait_for(lambda: scene.events >= 1, "a pull")
        filler = fill_up(disk)
        scene.ended_by(running, 2, "no space is left")
        filler.unlink()
        scene.ended_well(scene.resume())


def full_object_store(scene: Scene) -> None:
    """Another driver holds the cluster's object store; what does not fit is spilled."""
    with cluster(cpus=2, slots=1, store=100 * 2**20) as found, full_store(found):
        scene.ended_well(scene.start(environment=found.joining()))


def two_drivers(scene: Scene) -> None:
    """A second driver on a run directory is refused, and the first one does not notice."""
    first = scene.start()
    first.wait_for(lambda: scene.events >= 1, "a pull")
    for second in (scene.resume(), scene.start()):
        # The folder holds what the first one needs; what is left is looked for after it.
        scene.ended_by(second, 2, "hit", files=False)
    scene.ended_well(first)


def second_run(scene: Scene) -> None:
    """Another run on the same machine at the same time: both end as if they were alone."""
    first = scene.start()
    first.wait_for(lambda: first.of_name(GENERATOR), "an engine")
    beside = copy.copy(scene)
    beside.run, beside.scratch = scene.place / "beside", short_folder()
    second = beside.start()
    scene.ended_well(first)
    beside.ended_well(second)  # what it has lost is the scene's too
    shutil.rmtree(beside.scratch)


FAULTS: dict[str, tuple[str, Callable[[Scene], None]]] = {
    "SIGKILL to a generator": ("rr", killed_in_the_search(GENERATOR)),
    "SIGKILL to the bandit": ("rr", killed_in_the_search(BANDIT)),
    "SIGKILL to a trial": ("rr", killed(*TRIAL)),
    "SIGKILL to a rank": ("icu", killed_rank),
    "SIGKILL to the driver": ("icu", killed_driver),
    "SIGTERM to the driver": ("icu", terminated),
    "SIGKILL to the driver, a training's state cut": ("icu", cut_state),
    "SIGKILL to Ray's raylet": ("rr", killed_raylet),
    "SIGKILL to a worker node": ("rr", killed_node),
    "tracker down for a minute": ("rr", tracker_down_for_a_minute),
    "tracker down for good": ("rr", tracker_down_for_good),
    "disk full": ("rr", full_disk),
    "object store full": ("rr", full_object_store),
    "two drivers on one run": ("rr", two_drivers),
    "a second run beside": ("rr", second_run),
}


def measured(name: str, undisturbed: Undisturbed) -> Row:
    """What one fault has cost."""
    recipe, inject = FAULTS[name]
    scene = Scene(undisturbed, recipe)
    try:
        inject(scene)
    except (NotMetError, RuntimeError, OSError) as error:
        scene.lost.append(f"not injected: {error}"[:800])
    finally:
        scene.close()
    return {"lost": scene.lost}


def faults(folder: Path) -> dict[str, Any]:
    """How many faults have cost something."""
    undisturbed = Undisturbed(folder)
    cases = [(name, lambda name=name: measured(name, undisturbed)) for name in FAULTS]
    rows = Rows(folder, "faults").measure(cases)
    lost = {row["case"]: row["lost"] for row in rows if row["lost"]}
    return {"faults": len(rows), "faults_lost": len(lost), "faults_lost_by": lost}
