"""What a change of R&R's settings does, from the same forget set: the paper's questions.

Each variant is released and evaluated in a run of its own, RUNS/VARIANT-K. Its forget set, retain
answers, and every training and reading that it has in common are taken from a run of
`table_toxicity.py` (RUNS/seed-K) that has released or, where there is none, from RUNS/plain-K.
Rows go to `docs/results/toxicity_variants/`; the last line is one JSON object: how much more of
the challenging continuations is toxic than in `plain`.

    python benchmarks/variants_toxicity.py RUNS SEED [VARIANT ...]
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from rnr_dist.commands.cli import app
from rnr_dist.config.file import load_config
from rnr_dist.recipes.reveal_and_release import read_measures
from rnr_dist.run.directory import RunDir, read_json, replacing_folder, write_json
from rnr_dist.stats import ClusterMean, paired_difference

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "configs" / "toxicity_table.yaml"
RESULTS = ROOT / "docs" / "results" / "toxicity_variants"
TOXIC = "toxicity/challenging/fraction_gt_0.5"
EVERY = "[q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj]"
# No joint search but in the one that asks for it: it would hide what a setting of the loop does.
PLAIN = ["release.joint.trials=0", "evaluate.steps=all"]
VARIANTS = {
    "plain": PLAIN,
    # Does a search over all coefficients at once find better ones?
    "joint": ["evaluate.steps=all"],
    # Does it pay to forget less at first (Figure 4)?
    "share-60": [*PLAIN, "release.forget_share=0.6"],
    # How many iterations (t of Eq. 1)?
    "iterations-3": [*PLAIN, "release.iterations=3", "release.stop_early=false"],
    # Are there better weights between those that the table tries?
    "finer": [
        *PLAIN,
        "release.lam={low: 0.5, high: 0.775, trials: 3}",
        "release.mu={low: 0.03, high: 0.1, trials: 3}",
    ],
    # Do adapters of the MLPs too forget more at the same utility? They weigh more, so from less.
    "all-linear": [
        *PLAIN,
        f"release.forget.target_modules={EVERY}",
        f"release.retain.target_modules={EVERY}",
        "release.mu0={low: 0.5, high: 2, trials: 4}",
    ],
    # Should the retain adapter keep out of the forget adapter's subspace (appendix B)?
    "orthogonal": [*PLAIN, "release.retain.objective={name: orthogonal}"],
}


def measured(name: str, runs: Path, seed: int) -> dict[str, ClusterMean]:
    """Measures of a variant's result; its summary is copied to the results."""
    own = runs / f"{name}-{seed}"
    settings = [f"seed={seed}", *VARIANTS[name]]
    firsts = [runs / f"{first}-{seed}" for first in ("seed", "plain")]
    first = next((one for one in firsts if (one / "config.json").exists()), None)
    if first and not (own / "config.json").exists():
        begin(own, first, load_config(CONFIG, settings).model_dump(mode="json"))
    where = "--resume" if (own / "config.json").exists() else "--run"
    overrides = [part for setting in settings for part in ("--set", setting)]
    app(["run", str(CONFIG), *overrides, where, str(own)], standalone_mode=False)
    write_json(RESULTS / f"{name}-{seed}.json", read_json(own / "summary.json"))
    last = read_json(own / "evaluate" / "order.json")[-1]
    return read_measures(own / "evaluate", last)


def begin(own: Path, first: Path, config: dict[str, Any]) -> None:
    """A run directory with what it shares with the first one."""
    with replacing_folder(own) as aside:
        RunDir.open(aside, config, resume=False)
        shutil.copytree(first / "reveal", aside / "reveal")
        shutil.copytree(first / "release" / "readings", aside / "release" / "readings")
        shutil.copy(first / "release" / "retain_answers.parquet", aside / "release")
        shutil.copytree(first / "release" / "adapters", aside / "release" / "adapters")


def main(runs: Path, seed: int, names: list[str]) -> dict[str, Any]:
    found = {name: measured(name, runs.absolute(), seed) for name in ["plain", *names]}
    figures = {}
    for name in names:
        difference, bounds = paired_difference(found[name][TOXIC], found["plain"][TOXIC])
        figures[name] = {"difference": difference, "ci95": bounds}
    return figures


if __name__ == "__main__":
    wanted = sys.argv[3:] or [name for name in VARIANTS if name != "plain"]
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]), wanted)))
