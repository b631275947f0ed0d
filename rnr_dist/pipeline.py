"""contexts -> reveal -> release -> evaluate -> report -> baselines: the whole picture, by stage.

In: a config and a run directory. Out: the same directory with every stage done. Invariant: a stage
whose manifest stands with the same fingerprint is never done again, so a run goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from rnr_dist.config import Config
from rnr_dist.machine import Machine
from rnr_dist.report.meter import Meter
from rnr_dist.report.progress import say
from rnr_dist.report.tracking import Tracker, default_uri
from rnr_dist.run_dir import RunDir, read_json, write_json
from rnr_dist.stages import (
    baselines_stage,
    evaluate_stage,
    release_stage,
    report_stage,
    reveal_stage,
)
from rnr_dist.tasks.toxicity import TaskData

StageName = Literal["reveal", "release", "evaluate", "report", "baselines"]
STAGES: tuple[StageName, ...] = ("reveal", "release", "evaluate", "report", "baselines")

REVEAL_KEYS = ("seed", "model", "task", "reveal", "engines.dtype")
RELEASE_KEYS = (*REVEAL_KEYS, "retain", "release", "perplexity", "workers.dtype")
EVALUATE_KEYS = (*RELEASE_KEYS, "evaluate")
BASELINES_KEYS = (*EVALUATE_KEYS, "baselines")


def run_pipeline(config: Config, data: TaskData, run: RunDir, until: StageName = "report") -> None:
    """Do what is not done yet, up to and with the stage `until`."""
    uri = config.tracking.uri or default_uri(run.path.parent)
    tracker = Tracker(uri, config.tracking.experiment, run.path / "mlflow-spool.jsonl")
    stages: dict[StageName, tuple[tuple[str, ...], Callable[..., None]]] = {
        "reveal": (REVEAL_KEYS, reveal_stage),
        "release": (RELEASE_KEYS, release_stage),
        "evaluate": (EVALUATE_KEYS, evaluate_stage),
        "report": (tuple(Config.model_fields), report_stage),
        "baselines": (BASELINES_KEYS, baselines_stage),
    }
    wanted = STAGES[: STAGES.index(until) + 1]
    try:
        with (
            Machine(config) as machine,
            tracker.parent(config.name, config.model_dump(mode="json")),
        ):
            for name in wanted:
                keys, stage = stages[name]
                fingerprint = config.fingerprint(*keys)
                if run.done(name, fingerprint):
                    say(f"{name}: done before")
                    continue
                meter = Meter()
                with meter.stage(name), tracker.nested(name, {}):
                    stage(config, data, run, machine, tracker)
                note_stage(run, name, meter)
                run.finish(name, fingerprint)
    finally:
        tracker.close()


def note_stage(run: RunDir, name: str, meter: Meter) -> None:
    """Add to what a stage took in earlier, interrupted attempts of this run."""
    path = run.path / "stages.json"
    stages = read_json(path) if path.exists() else []
    write_json(path, [*stages, *meter.stages])


def run_folder(runs: Path, name: str) -> Path:
    """A new folder's name for a run: its config's name and the time."""
    import time

    return runs / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
