"""ICU and the methods beside it on memorised records, seed by seed: `rnr baselines`, resumable.

Each seed has its run in RUNS/seed-K and records of its own; its rows, with commit, config hash and
every sequence's continuations, go to `docs/results/icu_table/`. The last line is one JSON object:
the means over the seeds.

    python benchmarks/table_icu.py RUNS [SEEDS]
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from statistics import mean
from typing import Any

from provenance import measured_with, provenance

from rnr_dist.commands.cli import app
from rnr_dist.config.file import load_any_config
from rnr_dist.run.directory import read_json, write_json
from rnr_dist.types import digest

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "configs" / "icu_table.yaml"
RESULTS = ROOT / "docs" / "results" / "icu_table"
SHOWN = ("extraction/el_t0", "extraction/ma_t0", "extraction/sampled", "extraction/el_short")
KEPT = ("output/entropy", "pool/nll", "perplexity/general")
MOST = 5  # seeds that there are different records for


def settings(seed: int) -> list[str]:
    """Overrides of a seed: its own records in every set."""
    config = load_any_config(CONFIG, [])
    sets = ("forget", "pool", "unseen", "tuning")
    sources = {name: getattr(config.task, name) for name in sets}
    firsts = [f"task.{name}.first={one.first + seed * one.count}" for name, one in sources.items()]
    return [f"seed={seed}", *firsts]


def measured(seed: int, runs: Path) -> dict[str, Any]:
    """The rows of a seed: from its file where it was measured with this config before."""
    overrides = settings(seed)
    config = load_any_config(CONFIG, overrides).model_dump(mode="json")
    path = RESULTS / f"seed-{seed}.json"
    if path.exists() and measured_with((kept := read_json(path))["config"], config):
        return kept
    run = runs / f"seed-{seed}"
    where = "--resume" if (run / "config.json").exists() else "--run"
    said = [part for override in overrides for part in ("--set", override)]
    app(["baselines", str(CONFIG), *said, where, str(run)], standalone_mode=False)
    table = read_json(run / "baselines" / "baselines.json")
    samples = RESULTS / f"seed-{seed}"
    samples.mkdir(parents=True, exist_ok=True)
    for row in table["rows"]:
        shutil.copy(run / "evaluate" / f"{row['name']}.parquet", samples)
    content = {
        "seed": seed,
        "config_hash": digest(config),
        **provenance(run),
        "samples": str(samples.relative_to(ROOT)),
        **table,
    }
    write_json(path, content)
    return content


def main(runs: Path, seeds: int) -> dict[str, Any]:
    assert seeds <= MOST, f"records differ for {MOST} seeds at most"
    tables = [measured(seed, runs.absolute()) for seed in range(seeds)]
    figures: dict[str, Any] = {"seeds": seeds}
    found: dict[str, list[float]] = {}
    for table in tables:
        for row in table["rows"]:
            for key in SHOWN:
                found.setdefault(f"{row['name']} {key}", []).append(row["scores"][key]["value"])
            found.setdefault(f"{row['name']} auc", []).append(row["auc"][0])
            for key in KEPT:
                ratio = row["scores"][key]["vs_memorised"]["ratio"]
                found.setdefault(f"{row['name']} {key}", []).append(ratio - 1)
    return figures | {key: mean(values) for key, values in found.items()}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), int((sys.argv[2:] or ["1"])[0]))))
