"""Small whole runs of both recipes on the furnished place, and what comes of them.

In: a furnished place. Out: the arguments of a run, its figures and its rows. Invariant: what is
compared between two runs is what must be equal: rows always, figures where nothing is drawn.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

# Every stage for real on a model of some thousand weights, served by transformers: a minute or two.
REVEAL = (
    "engines.backend=transformers",
    "engines.max_model_len=1024",  # five demonstrations of 100 tokens stand in one prompt
    "reveal.outer_iterations=2",
    "reveal.budget=6",
    "reveal.initial=2",
    "reveal.warm_start=2",
    "reveal.arms=60",
    "reveal.contexts_per_pull=6",
    "reveal.min_relevance=0",
    "reveal.fill_per_context=2",
    "reveal.instruction_tokens=6",
    "reveal.response={n: 2, max_tokens: 100}",  # so long that there is time to kill something
    "retain.responses_per_context=1",
    "release.iterations=0",  # one training, and four searches of Ray Tune
    "release.mu0={low: 1, high: 2, trials: 2}",
    "release.search={n: 2}",
    "release.reread=1",
    "release.reread_draws=1",
    "release.joint={trials: 1}",
    "evaluate.steps=ends",
    "perplexity.max_windows=2",
)
FORGET = (
    "engines.backend=transformers",
    "memorise={control: false, repeats: 2, rehearse: 2, until: 0.9, least: 0.0, "
    "training: {epochs: 3, batch_size: 4, learning_rate: 3.0e-3}}",
    "stopping.epochs=2",
    "methods.icu={grid: [{learning_rate: 1.0e-3}], training: {batch_size: 4}}",
    "perplexity.max_windows=2",
)
# Which config, what else is set, and the name of its run.
RECIPES = {"rr": ("config.yaml", REVEAL), "icu": ("icu.yaml", FORGET)}


def arguments(recipe: str, *where: str, more: tuple[str, ...] = ()) -> list[str]:
    """`run CONFIG --set ... WHERE`; `more` are further overrides."""
    config, settings = RECIPES[recipe]
    return ["run", config, *(w for one in (*settings, *more) for w in ("--set", one)), *where]


def rows_of(run: Path) -> dict[str, Any]:
    """Which rows a finished run has: of its table, of its samples, of its search."""
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    found: dict[str, Any] = {"models": [row["name"] for row in summary["rows"]]}
    for path in sorted((run / "evaluate").glob("*.parquet")):
        found[f"evaluate/{path.stem}"] = pq.read_metadata(path).num_rows
    events = run / "reveal" / "events.jsonl"
    if events.exists():
        logged = [json.loads(line) for line in events.read_text(encoding="utf-8").splitlines()]
        pulls = [one["pull"]["id"] for one in logged if one["event"] == "pull"]
        found |= {"pulls": len(pulls), "different pulls": len(set(pulls))}
        found["fills"] = sum(one["event"] == "fill" for one in logged)
    return found


def figures_of(run: Path) -> dict[str, float]:
    """{model: measure: value} of a finished run."""
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    return {
        f"{row['name']}: {name}": score["value"]
        for row in summary["rows"]
        for name, score in row["scores"].items()
    }


def comparable(rows: Mapping[str, Any]) -> dict[str, Any]:
    """Rows with the last model as `result`: the joint search finds a better one, or none."""
    *others, last = rows["models"]
    named = {f"evaluate/{last}": "evaluate/result"}
    kept = {named.get(key, key): value for key, value in rows.items()}
    return {**kept, "models": [*others, "result"]}
