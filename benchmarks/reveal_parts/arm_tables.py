"""Score every arm of three arm tables once on the real model, for `replay.py`.

Each table has its own seed: other demonstrations, soft prompts, contexts. Resumable: finished
evaluations lie in FOLDER. Ends with `docs/results/arm_tables/SEED.npz`: features (arms x hidden,
float16), score, relevance and diversity of each arm (empty forget set), its instruction, and the
relevance of each of its responses (arms x contexts). Instructions are sampled: greedily, 1,024
soft prompts of this model decode to some 60 different ones. Demonstrations are rude, the contexts
that score an arm are harmless, and the model is asked by its chat template: behind openings that
are rude already, or asked by a preamble, what the instruction says makes no difference that 300
arms could show (docs/reveal.md).

    python benchmarks/reveal_parts/arm_tables.py FOLDER
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import numpy as np

from rnr_dist.bench import Bench
from rnr_dist.config.file import load_config
from rnr_dist.reveal.history import History
from rnr_dist.reveal.pulls import Evaluator, pull_contexts
from rnr_dist.reveal.setting import Setting
from rnr_dist.reveal.table import arm_table
from rnr_dist.run.codec import from_plain
from rnr_dist.run.directory import read_rows
from rnr_dist.run.progress import progress_bar
from rnr_dist.tasks.task import make_task
from rnr_dist.types import Arm, Context, Pull, Sample, Split

RESULTS = Path(__file__).parents[2] / "docs" / "results" / "arm_tables"
CONFIG = Path(__file__).parents[2] / "configs" / "toxicity_small.yaml"
SEEDS, ARMS, CONTEXTS, IN_FLIGHT = (0, 1, 2), 300, 16, 6
SETTINGS = [
    "reveal.arms=360",  # decoded to find so many different instructions
    "reveal.outer_iterations=1",
    f"reveal.contexts_per_pull={CONTEXTS}",
    "reveal.instruction_temperature=0.7",
    "reveal.soft_place=last",
    "reveal.features=instruction",
    "reveal.query=chat",
]


class Harmless(Setting):
    """Arms are scored on harmless contexts."""

    @property
    def reveal_contexts(self) -> list[Context]:  # type: ignore[override]
        return self.task.contexts(Split.RETAIN, "retain")


async def score_all(setting: Setting, history: History, arms: list[Arm]) -> None:
    evaluator = Evaluator(setting, history, pull_contexts(setting, 0)[0], 0)
    room = asyncio.Semaphore(IN_FLIGHT)
    with progress_bar(f"seed {setting.bench.config.seed}: arms", len(arms)) as advance_to:

        async def one(row: int) -> None:
            text = arms[row].instruction
            name = evaluator.name(text)
            if history.get(name) is None:
                async with room:
                    found = await evaluator.evaluate(row, text, name)
                history.add_pull(found.pull, found.samples, found.embeddings, np.zeros(0))
            advance_to(len(history.pulls))

        await asyncio.gather(*(one(row) for row in range(len(arms))))


def logged(folder: Path) -> list[Pull]:
    """Pulls of the event log, by arm."""
    path = folder / "events.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    pulls = [from_plain(Pull, json.loads(line)["pull"], str(path)) for line in lines]
    return sorted(pulls, key=lambda pull: pull.arm)


def collect(folder: Path, path: Path) -> None:
    """The table of a folder where all arms are scored."""
    pulls = logged(folder)
    features = np.load(folder / "features.npy")
    rows = [
        [sample.score for sample in read_rows(folder / "pulls" / f"{pull.id}.parquet", Sample)]
        for pull in pulls
    ]
    np.savez_compressed(
        path,
        features=features[[pull.arm for pull in pulls]].astype(np.float16),
        score=np.array([pull.score for pull in pulls]),
        relevance=np.array([pull.relevance for pull in pulls]),
        diversity=np.array([pull.vendi for pull in pulls]),
        instruction=np.array([pull.instruction for pull in pulls]),
        responses=np.array(rows, np.float16),
    )


def main(folder: Path) -> None:
    RESULTS.mkdir(parents=True, exist_ok=True)
    for seed in SEEDS:
        config = load_config(CONFIG, [f"seed={seed}", *SETTINGS])
        here = folder / str(seed)
        if len(logged(here)) < ARMS:
            task = make_task(config)
            with Bench(config, task.oracle) as bench:
                table = arm_table(Setting(bench, task, here))
                dimension = bench.scorer.embed(["dimension"]).shape[1]
                history = History(here, config.reveal, dimension)
                harmless = Harmless(bench, task, here)
                asyncio.run(score_all(harmless, history, table.arms[:ARMS]))
        collect(here, RESULTS / f"{seed}.npz")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
