"""contexts -> reveal -> release -> evaluate -> report -> baselines, and
sequences -> memorise -> icu -> evaluate -> baselines: both pictures, by stage.

In: a config and a run directory. Out: the same directory with every stage done. Invariant: a stage
whose manifest stands with the same fingerprint is never done again, so a run goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from rnr_dist.bench import Machine
from rnr_dist.config.schema import Config, RunConfig
from rnr_dist.recipes import reveal_and_release as stages
from rnr_dist.recipes import unlearn_sequences as icu_stages
from rnr_dist.run.directory import RunDir, read_json, write_json
from rnr_dist.run.meter import Meter
from rnr_dist.run.progress import say
from rnr_dist.run.tracking import Tracker, default_uri
from rnr_dist.weights.checkpoints import keep_base

StageName = Literal[
    "reveal", "release", "memorise", "icu", "evaluate", "report", "baselines", "sweep"
]
# A stage's sections of the config, whose change makes it anew, and what it does.
Stages = Mapping[StageName, tuple[tuple[str, ...], Callable[..., None]]]

REVEAL_KEYS = ("seed", "model", "task", "reveal", "engines.dtype")
RELEASE_KEYS = (*REVEAL_KEYS, "retain", "release", "perplexity", "workers.dtype")
EVALUATE_KEYS = (*RELEASE_KEYS, "evaluate")
STAGES: Stages = {
    "reveal": (REVEAL_KEYS, stages.reveal_stage),
    "release": (RELEASE_KEYS, stages.release_stage),
    "evaluate": (EVALUATE_KEYS, stages.evaluate_stage),
    "report": (tuple(Config.model_fields), stages.report_stage),
    "baselines": ((*EVALUATE_KEYS, "baselines"), stages.baselines_stage),
}
MEMORISE_KEYS = ("seed", "model", "task", "memorise", "workers.dtype")
ICU_KEYS = (
    *MEMORISE_KEYS,
    "engines.dtype",
    "preset",
    "pairing",
    "refinement",
    "stopping",
    "methods",
    "perplexity",
)
ICU_STAGES: Stages = {
    "memorise": (MEMORISE_KEYS, icu_stages.memorise_stage),
    "icu": (ICU_KEYS, icu_stages.icu_stage),
    "evaluate": ((*ICU_KEYS, "evaluate"), icu_stages.evaluate_stage),
    "baselines": ((*ICU_KEYS, "evaluate"), icu_stages.baselines_stage),
    "sweep": ((*ICU_KEYS, "sweep"), icu_stages.sweep_stage),
}
# A stage that is no part of the picture needs only these before it.
ASIDE: Mapping[StageName, tuple[StageName, ...]] = {"sweep": ("memorise",)}


def run_pipeline(config: RunConfig, data: Any, run: RunDir, until: StageName = "report") -> None:
    """Do what is not done yet, up to and with the stage `until` of the config's picture."""
    uri = config.tracking.uri or default_uri(run.path.parent)
    tracker = Tracker(uri, config.tracking.experiment, run.path / "mlflow-spool.jsonl")
    picture = stages_of(config)
    before = ASIDE.get(until, tuple(picture)[: [*picture].index(until)])
    try:
        with Machine(config) as machine:
            keep_base(run.path, machine.base)
            with tracker.parent(config.name, config.model_dump(mode="json")):
                for name in (*before, until):
                    keys, stage = picture[name]
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


def stages_of(config: RunConfig) -> Stages:
    """The stages of a config's picture, in order."""
    return STAGES if isinstance(config, Config) else ICU_STAGES


def note_stage(run: RunDir, name: str, meter: Meter) -> None:
    """Add to what a stage took in earlier, interrupted attempts of this run."""
    path = run.path / "stages.json"
    stages = read_json(path) if path.exists() else []
    write_json(path, [*stages, *meter.stages])


def run_folder(runs: Path, name: str) -> Path:
    """A new folder's name for a run: its config's name and the time."""
    import time

    return runs / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
