"""What methods train on to forget sequences: pairs, other ends, what stays.

In: a task's sequences and general text. Out: `Materials`. Invariant: what is found by a model
(pairs by an embedder, nats by the model that knows) is a file, and made anew where it came from
other data or settings.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np

from rnr_dist.bench import Bench
from rnr_dist.data.pairing import Pair, apart, pair_up
from rnr_dist.generate.requests import ReadLikelihood
from rnr_dist.measures.memorisation import token_nats
from rnr_dist.run.directory import RunDir, read_rows, write_rows
from rnr_dist.run.once import once
from rnr_dist.run.progress import say
from rnr_dist.tasks.sequences import SequenceTask, general_windows, known_model
from rnr_dist.train.collate import Example
from rnr_dist.train.materials import Materials, Need, other_end
from rnr_dist.types import TokenSequence


def extraction_materials(
    bench: Bench,
    task: SequenceTask,
    run: RunDir,
    sequences: Sequence[TokenSequence],
    needs: frozenset[Need],
) -> Materials:
    """What is needed to forget `sequences`; everything else stays empty."""
    config = bench.config
    pairs = sequence_pairs(bench, task, run) if needs & {"pairs", "alternatives"} else {}
    own = {one.id: tuple(pairs[one.id]) for one in sequences} if pairs else {}
    ends = {one.id: tuple(other_end(one, pair) for pair in own[one.id]) for one in sequences if own}
    retain: list[Example] = []
    if "retain" in needs or "pairs" in needs:
        retain = retained_texts(
            apart(task.pool, sequences, config.pairing),
            general_windows(bench, task, config.methods.retained),
            config.methods.retained,
            config.seed,
        )
    return Materials(
        forget=tuple(sequences),
        retain=tuple(retain),
        pairs=own if "pairs" in needs else {},
        alternatives=ends if "alternatives" in needs else {},
        others=task.pool,
        token_nats=unseen_nats(bench, task, run) if "pairs" in needs else {},
        seed=config.seed,
    )


def sequence_pairs(bench: Bench, task: SequenceTask, run: RunDir) -> dict[str, list[TokenSequence]]:
    """{id: its pairs} of the forget and the tuning sequences, in `run`/materials/pairs.parquet;
    pairs.json beside it has their texts."""
    wanted, folder, settings = [*task.forget, *task.tuning], run.stage("materials"), bench.config
    rows = folder / "pairs.parquet"

    def find() -> list[dict[str, Any]]:
        from rnr_dist.score.actors import embedded

        texts = [sequence.text for sequence in [*wanted, *task.pool]]
        vectors = embedded(settings.pairing.embedder, texts, bench.placement.embedder_gpus)
        own = vectors[: len(wanted)], vectors[len(wanted) :]
        found = pair_up(wanted, task.pool, own, settings.pairing)
        write_rows(rows, found)
        say(f"paired {len(wanted)} sequences, mean cosine {np.mean([p.cosine for p in found]):.2f}")
        text = {sequence.id: sequence.text for sequence in [*wanted, *task.pool]}
        return [
            {"cosine": pair.cosine, "forget": text[pair.forget], "learn": text[pair.learn]}
            for pair in found
        ]

    known = [[one.id for one in part] for part in (wanted, task.pool)]
    once(folder / "pairs.json", [known, settings.fingerprint("pairing")], find)
    by_id = {sequence.id: sequence for sequence in task.pool}
    pairs: dict[str, list[TokenSequence]] = {}
    for pair in read_rows(rows, Pair):
        pairs.setdefault(pair.forget, []).append(by_id[pair.learn])
    return pairs


def unseen_nats(bench: Bench, task: SequenceTask, run: RunDir) -> dict[int, float]:
    """By token id the mean -log q of the model that knows, in never-seen sequences."""
    ids, known = [one.token_ids for one in task.unseen], known_model(bench, run)

    def read() -> dict[int, float]:
        answers = bench.endpoint.run(known, [ReadLikelihood(one) for one in ids])
        return token_nats(ids, [answer.log_likelihoods for answer in answers])

    inputs = [known.digest, [one.id for one in task.unseen]]
    found = once(run.stage("materials") / "token_nats.json", inputs, read)
    return {int(token): nats for token, nats in found.items()}


def retained_texts(
    pool: Sequence[TokenSequence], general: Sequence[ReadLikelihood], most: int, seed: int
) -> list[Example]:
    """What may be retained, whole: at most `most`, half of each where there is as much of both."""
    draw = random.Random(f"{seed} retained")
    rest = max(most // 2, most - len(pool))
    of_general = draw.sample(list(general), min(rest, len(general)))
    of_pool = draw.sample(list(pool), min(most - len(of_general), len(pool)))
    token_ids = [one.token_ids for one in of_pool] + [one.token_ids for one in of_general]
    return [Example(ids, 0) for ids in token_ids]
