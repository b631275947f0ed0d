"""Where the rows of a table come from: what stands in each file of `docs/results`."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Any

from rnr_dist.config.file import validate
from rnr_dist.errors import InputError
from rnr_dist.run.directory import read_json

ROOT = Path(__file__).parents[1]


def provenance(run: Path) -> dict[str, Any]:
    """The commit that is checked out, the date, and a run's machine and minutes of all stages."""
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    ).stdout.strip()
    stages = read_json(run / "stages.json")
    return {
        "commit": commit,
        "date": time.strftime("%Y-%m-%d"),
        "machine": stages[-1]["machine"],
        "minutes": sum(stage["wall_seconds"] for stage in stages) / 60,
    }


def measured_with(kept: dict[str, Any], config: dict[str, Any]) -> bool:
    """Whether rows whose config is `kept` were measured with `config`.

    Keys that the schema has gained since stand at their defaults in rows from before.
    """
    try:
        return validate(kept, "kept").model_dump(mode="json") == config
    except InputError:  # a key that is no more
        return False
