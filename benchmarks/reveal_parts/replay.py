"""Does the bandit help? Searches replayed over arms that were all scored once on the real model.

For each table of `docs/results/arm_tables/` and each seed: `default` (four pulls in flight, trained
anew when a tenth of its scores is new, as its actor does at best), `instinct` (after every pull)
and random order; the best score found after 20, 40 and 80 pulls. Finished seeds are kept in
`docs/results/arm_tables/replay.json` together with what they depend on; a change of tables or
settings starts them anew.

    python benchmarks/reveal_parts/replay.py [SEEDS [INSTINCT_SEEDS]]
"""

from __future__ import annotations

import hashlib
import json
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from rnr_dist.config.reveal import Reveal
from rnr_dist.run.directory import read_json, write_json

TABLES = Path(__file__).parents[2] / "docs" / "results" / "arm_tables"
BUDGETS, IN_FLIGHT = (20, 40, 80), 4


def settings(mode: str) -> Reveal:
    return Reveal.model_validate(
        {"mode": mode, "arms": 1000, "initial": 8 if mode == "default" else 40}
    )


def best_scores(order: list[float]) -> list[float]:
    """Best score after each budget."""
    return [max(order[:budget]) for budget in BUDGETS]


def replay(table: str, mode: str, seed: int) -> list[float]:
    """One search over a table's arms."""
    import torch
    from threadpoolctl import threadpool_limits

    from rnr_dist.reveal.bandit_actor import NEWS
    from rnr_dist.reveal.bandits import make_bandit

    torch.set_num_threads(1)
    threadpool_limits(1, user_api="blas")
    found = np.load(TABLES / f"{table}.npz")
    scores = found["score"]
    if mode == "random":
        return best_scores(list(np.random.default_rng(seed).permutation(scores)))
    reveal = settings(mode)
    bandit = make_bandit(found["features"].astype(np.float32), reveal, seed)
    limit = IN_FLIGHT if mode == "default" else 1
    flying: list[int] = []
    told: list[float] = []
    learnt = 0
    while len(told) < max(BUDGETS):
        while len(flying) < limit:
            # The first arms are drawn, whatever the network says.
            chooses = len(told) + len(flying) >= reveal.initial
            news = len(told) - learnt
            if bandit.stale and chooses and (limit == 1 or news >= NEWS * len(told)):
                bandit.train()
                learnt = len(told)
            arm = bandit.select()
            bandit.dispatch(arm)
            flying.append(arm)
        arm = flying.pop(0)
        told.append(float(scores[arm]))
        bandit.observe(arm, told[-1])
    return best_scores(told)


def interval(gains: np.ndarray) -> tuple[float, float]:
    """95 % bootstrap interval of the mean of (tables, seeds) gains, seeds resampled in tables."""
    drawn = np.random.default_rng(0).integers(gains.shape[1], size=(4000, *gains.shape))
    means = np.take_along_axis(gains[None], drawn, axis=2).mean(axis=(1, 2))
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def reliability(responses: np.ndarray) -> float:
    """Share of the variance of arms' mean relevance that is not noise of their responses.

    responses: (arms, contexts), one response each; noise is what arm and context do not explain
    (two-way analysis of variance). At 0 no search can do better than chance.
    """
    arms, contexts = responses.shape
    means = responses.mean(1, keepdims=True)
    rest = responses - means - responses.mean(0) + responses.mean()
    noise = (rest**2).sum() / ((arms - 1) * (contexts - 1)) / contexts
    return float(1 - noise / means.var(ddof=1))


def main(seeds: int, instinct_seeds: int) -> dict[str, float]:
    tables = sorted(path.stem for path in TABLES.glob("*.npz"))
    content = b"".join((TABLES / f"{name}.npz").read_bytes() for name in tables)
    basis = {
        "tables": hashlib.sha256(content).hexdigest()[:16],
        "default": settings("default").model_dump(mode="json"),
        "instinct": settings("instinct").model_dump(mode="json"),
    }
    path = TABLES / "replay.json"
    kept = read_json(path) if path.exists() else {}
    rows = kept["rows"] if kept.get("basis") == basis else {}
    wanted = [
        (table, mode, seed)
        for mode, count in (("random", seeds), ("default", seeds), ("instinct", instinct_seeds))
        for table in tables
        for seed in range(count)
    ]
    missing = [key for key in wanted if "/".join(map(str, key)) not in rows]
    with ProcessPoolExecutor(max_workers=2) as workers:
        for number, (key, best) in enumerate(
            zip(missing, workers.map(replay, *zip(*missing, strict=True)), strict=True)
            if missing
            else [],
            start=1,
        ):
            rows["/".join(map(str, key))] = best
            if number % 50 == 0 or number == len(missing):
                write_json(path, {"basis": basis, "rows": rows})
                print(f"{number} of {len(missing)}", file=sys.stderr, flush=True)
    figures: dict[str, float] = {}
    for position, budget in enumerate(BUDGETS):

        def found(mode: str, count: int, at: int = position) -> np.ndarray:
            return np.array(
                [[rows[f"{table}/{mode}/{seed}"][at] for seed in range(count)] for table in tables]
            )

        for mode, count in (("default", seeds), ("instinct", instinct_seeds)):
            if not count:
                continue
            gains = found(mode, count) - found("random", count)
            low, high = interval(gains)
            figures[f"gain_{mode}_{budget}"] = float(gains.mean())
            figures[f"gain_{mode}_{budget}_low"] = low
            figures[f"gain_{mode}_{budget}_high"] = high
            for table, mean in zip(tables, gains.mean(1), strict=True):
                figures[f"gain_{mode}_{budget}_table_{table}"] = float(mean)
        figures[f"random_{budget}"] = float(found("random", seeds).mean())
    for table in tables:
        responses = np.load(TABLES / f"{table}.npz")["responses"].astype(float)
        figures[f"reliability_table_{table}"] = reliability(responses)
    figures["bandit_gain_low"] = figures["gain_default_40_low"]
    return figures


if __name__ == "__main__":
    counts = [int(value) for value in sys.argv[1:]]
    print(json.dumps(main(*(counts + [200, 10][len(counts) :]))))
