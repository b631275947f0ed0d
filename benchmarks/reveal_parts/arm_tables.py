"""Score every arm of three arm tables once on the real model, for `replay.py`.

Each table has its own seed: other demonstrations, soft prompts, contexts. Resumable: finished
evaluations lie in FOLDER. Ends with `docs/results/arm_tables/SEED.npz`: features (arms x hidden,
float16), score, relevance and diversity of each arm (empty forget set), its instruction.

    python benchmarks/reveal_parts/arm_tables.py FOLDER
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import numpy as np

from rnr_dist.config_file import load_config
from rnr_dist.machine import Machine
from rnr_dist.report.progress import progress_bar
from rnr_dist.reveal.history import History
from rnr_dist.reveal.pulls import Evaluator, pull_contexts
from rnr_dist.reveal.setting import Setting
from rnr_dist.reveal.table import arm_table
from rnr_dist.tasks.toxicity import load_task

ROOT = Path(__file__).parents[2]
SEEDS, ARMS, CONTEXTS, IN_FLIGHT = (0, 1, 2), 300, 16, 6
SOFT_PROMPTS = 1024  # decoded to find so many different instructions


async def score_all(setting: Setting, history: History, arms: list) -> None:
    evaluator = Evaluator(setting, history, pull_contexts(setting, 0)[0], 0)
    room = asyncio.Semaphore(IN_FLIGHT)
    with progress_bar(f"seed {setting.config.seed}: arms", len(arms)) as advance_to:

        async def one(row: int) -> None:
            text = arms[row].instruction
            name = evaluator.name(text)
            if history.get(name) is None:
                async with room:
                    found = await evaluator.evaluate(row, text, name)
                history.add_pull(found.pull, found.samples, found.embeddings, np.zeros(0))
            advance_to(len(history.pulls))

        await asyncio.gather(*(one(row) for row in range(len(arms))))


def main(folder: Path) -> None:
    results = ROOT / "docs" / "results" / "arm_tables"
    results.mkdir(parents=True, exist_ok=True)
    for seed in SEEDS:
        overrides = [f"seed={seed}", f"reveal.arms={SOFT_PROMPTS}", "reveal.outer_iterations=1",
                     f"reveal.contexts_per_pull={CONTEXTS}"]  # fmt: skip
        config = load_config(ROOT / "configs" / "toxicity_small.yaml", overrides)
        data = load_task(config.task, config.evaluate.split)
        with Machine(config) as machine:
            setting = Setting.of(config, data, machine, folder / str(seed))
            table = arm_table(setting)
            dimension = machine.scorer.embed(["dimension"]).shape[1]
            history = History(setting.folder, config.reveal, dimension)
            asyncio.run(score_all(setting, history, table.arms[:ARMS]))
        pulls = sorted(history.pulls, key=lambda pull: pull.arm)
        np.savez_compressed(
            results / f"{seed}.npz",
            features=table.features[[pull.arm for pull in pulls]].astype(np.float16),
            score=np.array([pull.score for pull in pulls]),
            relevance=np.array([pull.relevance for pull in pulls]),
            diversity=np.array([pull.vendi for pull in pulls]),
            instruction=np.array([pull.instruction for pull in pulls]),
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
