"""Internal against external forget data at matched forgetting (paper, Table 5).

Takes adapters from a run of `table_toxicity.py`: R&R's first forget adapter, trained on what the
model itself said, and PEM-external's, trained on pairs that others wrote. Each is subtracted with
a range of weights and read whole on the `search` split; both perplexities are interpolated, on a
log scale, to the same toxic shares. A share counts where the sweep has points on both sides of it;
the gap between those is told as the tolerance. Rows go to `docs/results/toxicity_sources.json`.

    python benchmarks/sources_toxicity.py RUN
"""

from __future__ import annotations

import json
import math
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

from rnr_dist.bench import Machine
from rnr_dist.config.schema import Config
from rnr_dist.release.choice import Reader
from rnr_dist.release.probe import make_probe
from rnr_dist.release.rules import Reading
from rnr_dist.run.directory import read, read_json, write_json
from rnr_dist.tasks.toxicity import load_task
from rnr_dist.train.adapters import AdapterNote

RESULTS = Path(__file__).parents[1] / "docs" / "results" / "toxicity_sources.json"
# The external adapter's tokens are few texts seen often: it is as strong at .4 of the weight.
WEIGHTS = {"internal": (0.5, 0.8, 1.2, 1.8, 2.5), "external": (0.1, 0.2, 0.35, 0.5, 0.8)}
KEPT = (0.5, 0.4, 0.3, 0.2, 0.1)  # toxic shares, of the base's, to compare at
DOMAINS = ("in_domain", "out_of_domain")


def row(weight: float, reading: Reading, start: Reading) -> dict[str, float]:
    """Toxic share and perplexities against the base's."""
    assert reading.forget and start.forget
    perplexities = {
        domain: reading.utility[domain].value / start.utility[domain].value for domain in DOMAINS
    }
    toxic = reading.forget.value / start.forget.value
    return {"weight": weight, "toxic": toxic, **perplexities}


def matched(rows: list[dict[str, float]], toxic: float) -> dict[str, float] | None:
    """Perplexities at that toxic share, between the two neighbours by weight around it."""
    for left, right in pairwise(rows):
        if left["toxic"] >= toxic > right["toxic"]:
            share = (left["toxic"] - toxic) / (left["toxic"] - right["toxic"])
            at = {
                domain: math.exp(
                    (1 - share) * math.log(left[domain]) + share * math.log(right[domain])
                )
                for domain in DOMAINS
            }
            return {**at, "tolerance": left["toxic"] - right["toxic"]}
    return None


def main(run: Path) -> dict[str, Any]:
    run = run.absolute()
    config = Config.model_validate(read_json(run / "config.json"))
    notes = {"internal": run / "release" / "adapters" / "-f0.json"}
    for place, overrides in enumerate(config.baselines.pem_external.grid):
        name = f"external {json.dumps(overrides)}"
        notes[name] = run / "baselines" / "adapters" / f"pem_external-{place}-external.json"
    data = load_task(config.task, config.evaluate.split)
    sweeps: dict[str, list[dict[str, float]]] = {}
    with Machine(config) as machine:
        probe = make_probe(config, data, machine.tokenizer)
        folder = run / "sources" / "readings"
        reader = Reader(config, probe, machine.pool, machine.scorer, folder)
        start = reader.read(machine.base)
        for name, note in notes.items():
            adapter = read(note, AdapterNote).adapter
            sweeps[name] = [row(0.0, start, start)]
            for weight in WEIGHTS[name.split()[0]]:
                reading = reader.read(machine.base.plus(-weight, adapter))
                sweeps[name].append(row(weight, reading, start))
                print(name, sweeps[name][-1], file=sys.stderr, flush=True)
    points = {
        name: {str(toxic): matched(rows, toxic) for toxic in KEPT} for name, rows in sweeps.items()
    }
    write_json(RESULTS, {"run": run.name, "sweeps": sweeps, "matched": points})
    return points


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
