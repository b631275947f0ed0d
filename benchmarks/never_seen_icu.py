"""AUC of a run's models against records that nothing in the run has met.

`evaluate` compares the forget sequences with `task.unseen`, which the levels of ICU were read on
too. Here they stand against others, whose only use is this one: each model's NLL a token from t0
on, in float32 by transformers. Rows go to `docs/results/icu_never_seen/`, the last line is one JSON
object.

    python benchmarks/never_seen_icu.py RUN
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from provenance import provenance
from rich.progress import track
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer

from rnr_dist.config.schema import Config
from rnr_dist.data.sequences import load_sequences
from rnr_dist.icu.data import load_icu_data
from rnr_dist.icu.judging import auc_interval
from rnr_dist.run.directory import read_json, write_json
from rnr_dist.stats import ClusterMean
from rnr_dist.types import TokenSequence

RESULTS = Path(__file__).parents[1] / "docs" / "results" / "icu_never_seen"
# First and count of the records that no seed of `table_icu.py` takes for anything.
FREE = ((160, 40), (520, 80), (760, 40), (840, 90))
FOLDERS = ("memorise", "icu", "baselines")


def nll(checkpoint: Path, sequences: Sequence[TokenSequence], t0: int) -> ClusterMean:
    """-log p (nats) of the tokens from t0 on, a cluster a sequence."""
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    lost = []
    with torch.inference_mode():
        for sequence in track(sequences, f"{checkpoint.name}: NLL", transient=True):
            ids = torch.tensor([sequence.token_ids])
            logits = model(ids).logits[0, t0 - 1 : -1]
            lost.append(float(cross_entropy(logits, ids[0, t0:], reduction="sum")))
    lengths = [float(len(sequence.token_ids) - t0) for sequence in sequences]
    return ClusterMean(np.array(lost), np.array(lengths))


def main(run: Path) -> None:
    config = IcuConfig.model_validate(read_json(run / "config.json"))
    models = [path for part in FOLDERS for path in sorted((run / part / "models").glob("*/"))]
    tokenizer = AutoTokenizer.from_pretrained(models[0])
    task = config.task
    data = load_icu_data(config, tokenizer)
    others = [
        record
        for first, count in FREE
        for record in load_sequences(
            task.unseen.model_copy(update={"first": first, "count": count}),
            tokenizer,
            task.prefix_tokens,
            task.max_tokens,
        )
    ]
    met = {one.text for part in (data.forget, data.pool, data.unseen, data.tuning) for one in part}
    assert met.isdisjoint(one.text for one in others), "a record is not new to the run"
    rows = {}
    for model in models:
        found = {
            name: nll(model, part, task.prefix_tokens)
            for name, part in (("forget", data.forget), ("unseen", data.unseen), ("new", others))
        }
        rows[model.name] = {
            "auc_unseen": auc_interval(found["forget"], found["unseen"]),
            "auc_new": auc_interval(found["forget"], found["new"]),
            **{f"nll_{name}": measure.value for name, measure in found.items()},
        }
        print(model.name, json.dumps(rows[model.name]))
    path = RESULTS / f"seed-{config.seed}.json"
    write_json(path, {"records": FREE, **provenance(run), "rows": rows})
    print(json.dumps({name: row["auc_new"][0] for name, row in rows.items()}))


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
