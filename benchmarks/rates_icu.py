"""The methods beside ICU at other learning rates, from the memorised model of a table's seed.

`table_icu.py` gives all methods one rate. Here the others have more, `PLACES`, and the best of
each is taken by what it reaches on the reported records themselves, which is more than ICU was
given. Each place is a run RUNS/rates-P-K that takes over what RUNS/seed-K has (models
that memorised, ICU, readings); rows go to `docs/results/icu_rates/`. Resumable. The last line is
one JSON object: each method's best rate.

    python benchmarks/rates_icu.py RUNS SEED
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from math import log
from pathlib import Path
from typing import Any

from provenance import provenance
from table_icu import CONFIG, settings

from rnr_dist.commands.cli import app
from rnr_dist.config.file import load_any_config
from rnr_dist.run.directory import RunDir, read_json, replacing_folder, write_json

RESULTS = Path(__file__).parents[1] / "docs" / "results"
# First: DPO had missed MA after every epoch that it may take, the others had gone far below their
# limits. Then: KL had taken 12 of its 14 epochs, so a lower rate does not get there; DPO's two
# epochs had gone further than its limits.
PLACES = (
    {"kumpr": 3e-5, "kl": 3e-5, "dpo": 1.2e-4, "llmu": 3e-5},
    {"kumpr": 1.5e-5, "dpo": 9e-5, "llmu": 1.2e-4},
)


def measured(number: int, seed: int, runs: Path) -> dict[str, Any]:
    """The table of a place: its run is begun, gone on with, or done already."""
    path = RESULTS / "icu_rates" / f"place-{number}-seed-{seed}.json"
    if path.exists():
        return read_json(path)
    rates = [
        f"methods.{name}.training.learning_rate={rate}" for name, rate in PLACES[number].items()
    ]
    overrides = [*settings(seed), f"methods.run=[{','.join(PLACES[number])}]", *rates]
    run = runs / f"rates-{number}-{seed}"
    if not run.exists():
        config = load_any_config(CONFIG, overrides).model_dump(mode="json")
        begin(run, runs / f"seed-{seed}", config)
    said = [part for override in overrides for part in ("--set", override)]
    app(["baselines", str(CONFIG), *said, "--resume", str(run)], standalone_mode=False)
    table = read_json(run / "baselines" / "baselines.json")
    content = {"seed": seed, "rates": PLACES[number], **provenance(run), **table}
    write_json(path, content)
    return content


def begin(run: Path, first: Path, config: dict[str, Any]) -> None:
    """A run directory with all that other rates leave as it is in the first one."""
    with replacing_folder(run) as aside:
        RunDir.open(aside, config, resume=False)
        for stage in ("memorise", "icu"):
            shutil.copytree(first / stage, aside / stage, copy_function=os.link)
        (aside / "evaluate").mkdir()
        for name in ("base", "memorised", "control", "icu"):
            for file in (first / "evaluate").glob(f"{name}.*"):
                shutil.copy(file, aside / "evaluate")


def shortfall(row: dict[str, Any]) -> tuple[float, float]:
    """How far from both limits, then general and pool's NLL (nats a token) together."""
    scores = row["scores"]
    nll = log(scores["perplexity/general"]["value"]) + scores["pool/nll"]["value"]
    return row["epochs"][row["best"]]["violation"], nll


def main(runs: Path, seed: int) -> None:
    tables = [read_json(RESULTS / "icu_table" / f"seed-{seed}.json")]
    tables += [measured(number, seed, runs.absolute()) for number in range(len(PLACES))]
    best = {}
    for name in PLACES[0]:
        found = {
            table["config"]["methods"][name]["training"]["learning_rate"]: row
            for table in tables
            for row in table["rows"]
            if row["name"] == name
        }
        best[name] = min(found, key=lambda rate: shortfall(found[rate]))
    print(json.dumps(best))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
