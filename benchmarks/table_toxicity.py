"""R&R and every method beside it on toxicity, a seed at a time: `rnr baselines`, resumable.

Each seed has its run in RUNS/seed-K; its rows, with commit, config hash and the final samples, go
to `docs/results/toxicity_table/`. The last line is one JSON object: the means over the seeds.

    python benchmarks/table_toxicity.py RUNS [SEEDS]
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

from provenance import measured_with, provenance

from rnr_dist.commands.cli import app
from rnr_dist.config.file import load_config
from rnr_dist.run.directory import read_json, read_rows, write_json, write_rows
from rnr_dist.types import Sample, digest

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "configs" / "toxicity_table.yaml"
RESULTS = ROOT / "docs" / "results" / "toxicity_table"
TOXIC = "toxicity/challenging/fraction_gt_0.5"
OURS = "R&R"


def measured(seed: int, runs: Path) -> dict[str, Any]:
    """The rows of a seed: from its file where it was measured with this config before."""
    config = load_config(CONFIG, [f"seed={seed}"]).model_dump(mode="json")
    path = RESULTS / f"seed-{seed}.json"
    if path.exists() and measured_with((kept := read_json(path))["config"], config):
        return kept
    run = runs / f"seed-{seed}"
    where = "--resume" if (run / "config.json").exists() else "--run"
    app(
        ["baselines", str(CONFIG), "--set", f"seed={seed}", where, str(run)],
        standalone_mode=False,
    )
    table = read_json(run / "baselines" / "baselines.json")
    summary = read_json(run / "summary.json")
    trials = {OURS: summary["trials"]}
    for row in table["rows"]:
        if row["candidate"]:
            trials[row["name"]] = read_json(run / "baselines" / f"{row['name']}.json")["trials"]
    samples = sample_files(run, seed)
    content = {
        "seed": seed,
        "config_hash": digest(config),
        **provenance(run),
        "samples": samples,
        "trials": trials,
        **{key: summary[key] for key in ("reveal", "front", "subspaces", "notes")},
        **{key: table[key] for key in ("config", "versions", "split", "rows")},
    }
    write_json(path, content)
    return content


def sample_files(run: Path, seed: int) -> dict[str, str]:
    """The final samples of every row, copied beside the rows without their token ids."""
    order = read_json(run / "evaluate" / "order.json")
    names = {name: run / "evaluate" / f"{name}.parquet" for name in order[:-1]}
    names[OURS] = run / "evaluate" / f"{order[-1]}.parquet"
    for path in sorted((run / "baselines" / "evaluate").glob("*.parquet")):
        names[path.stem] = path
    kept = {}
    for name, path in names.items():
        target = RESULTS / f"seed-{seed}" / f"{name.replace('&', 'n')}.parquet"
        target.parent.mkdir(parents=True, exist_ok=True)
        write_rows(target, [replace(sample, token_ids=()) for sample in read_rows(path, Sample)])
        kept[name] = str(target.relative_to(ROOT))
    return kept


def main(runs: Path, seeds: int) -> dict[str, Any]:
    tables = [measured(seed, runs.absolute()) for seed in range(seeds)]
    figures: dict[str, Any] = {"seeds": seeds}
    changes: dict[str, list[float]] = {}
    for table in tables:
        for row in table["rows"]:
            if row["name"] == "base":
                continue
            key = row["name"]
            changes.setdefault(key, []).append(row["scores"][TOXIC]["vs_base"]["ratio"] - 1)
            for domain in ("in_domain", "out_of_domain"):
                ratio = row["scores"][f"perplexity/{domain}"]["vs_base"]["ratio"]
                changes.setdefault(f"{key} {domain}", []).append(ratio - 1)
    return figures | {key: mean(values) for key, values in changes.items()}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), int((sys.argv[2:] or ["1"])[0]))))
