"""The golden figure of unlearning by epochs, the longest: the real objectives in a plain loop.

In: the stored model that knows the sequences of `given`. Out: of each method and preset loss terms,
what is recalled and who left, after each epoch. Invariant: one process, fp32, torch's AdamW.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from rnr_dist.config.registry import method_class
from rnr_dist.config.schema import Config
from rnr_dist.generate.requests import ReadLikelihood
from rnr_dist.icu.leaving import EpochReading, Limits, best_epoch, leaving, left_by, violation
from rnr_dist.icu.torch_reader import TorchReader
from rnr_dist.measures.memorisation import Counting, recall
from rnr_dist.measures.similarity import sentence_bleu
from rnr_dist.tasks.extraction_materials import retained_texts
from rnr_dist.train.collate import Batching, collate, padded_tokens, plan_steps
from rnr_dist.train.materials import Materials, other_end, with_retained
from rnr_dist.train.objectives import check_items, make_objective
from rnr_dist.train.trainable import make_trained
from rnr_dist.types import ModelRef
from tests.conftest import _tiny_llama
from tests.golden import given

# Method and preset.
TRAININGS = {
    "icu": ("icu", "default"),
    "icu, paper": ("icu", "paper"),
    "icu, reference": ("icu", "reference"),
    "kl": ("kl", "default"),
    "llmu": ("llmu", "default"),
    "kumpr": ("kumpr", "default"),
    "dpo": ("dpo", "default"),
}
TASK = {
    "name": "extraction",
    "prefix_tokens": given.PREFIX,
    "max_tokens": given.LENGTH,
    "n": 3,
}
CHANGED = {"learning_rate": 3e-3, "batch_size": 4, "micro_batch_tokens": 96}
# The last sequence has a lower level of its own.
LEVELS = [Limits(0.4, 0.2, 0.7, 0.8)] * (len(given.FORGET) - 1) + [Limits(0.3, 0.1, 0.2, 0.6)]
AVERAGE = Limits(0.5, 0.3, 0.5, 0.7)
EPOCHS, EOS = 2, 1


def epochs() -> dict[str, Any]:
    """{method: {"counts", "epochs": [a row an epoch, 0 before the first], "best"}}."""
    with TemporaryDirectory() as name:
        return {label: _unlearned(Path(name), *TRAININGS[label]) for label in TRAININGS}


def known_model(folder: Path) -> Any:
    """The tiny Llama with the stored weights, in fp32, also written to `folder`."""
    _tiny_llama(folder, vocabulary=given.VOCABULARY)
    weights = {key: value.float() for key, value in load_file(given.MEMORISED).items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return AutoModelForCausalLM.from_pretrained(folder)


def _unlearned(folder: Path, name: Any, preset: Any) -> dict[str, Any]:
    config = Config(name="golden", preset=preset, task=TASK)
    training = config.methods.of(name).trained_with(CHANGED)
    objective = make_objective(training.objective)
    materials = Materials(
        tuple(given.FORGET),
        pairs={key: tuple(pairs) for key, pairs in given.PAIRS.items()},
        alternatives={
            one.id: tuple(other_end(one, pair) for pair in given.PAIRS[one.id])
            for one in given.FORGET
        },
        others=tuple(given.POOL),
        token_nats=given.UNSEEN_NATS,
        seed=0,
    )
    items = method_class(name)().items(name, materials, training)
    check_items(objective, items, name)
    general = [ReadLikelihood(ids, 1) for ids in given.GENERAL]
    retained = retained_texts(given.POOL, general, 8, 0)
    _, each = objective.parts.get("retain", (0, 0))
    model = known_model(folder)
    trained = make_trained(model, training, ModelRef(str(folder), "golden"), 0)
    trained.remember(one for item in items for part in objective.remembered for one in item[part])
    trained.remember(retained if each else ())
    # Adam would move by a whole step where a gradient is nothing but rounding.
    adamw = torch.optim.AdamW(
        model.parameters(), training.learning_rate, training.betas, eps=1e-3, weight_decay=0.0
    )
    reading, gone = _look(model, 0, config.refinement, [])
    readings, rows = [reading], [_row(reading, gone, {}, 0)]
    for epoch in range(EPOCHS):
        chosen = [at for at, left in enumerate(gone) if not left]
        now = with_retained(items, chosen, retained, each, epoch)
        terms = _epoch(trained, objective, adamw, training, [now[at] for at in chosen], epoch)
        reading, gone = _look(model, epoch + 1, config.refinement, gone)
        readings.append(reading)
        rows.append(_row(reading, gone, terms, len(chosen)))
        if all(gone):
            break
    best = best_epoch(readings, AVERAGE).epoch
    return {"counts": objective.counts(items), "epochs": rows, "best": best}


def _epoch(
    trained: Any, objective: Any, adamw: Any, training: Any, items: Sequence[Any], seed: int
) -> dict[str, float]:
    """Train on the items once; each term's mean over the epoch."""
    plan = plan_steps(
        [item.length for item in items],
        Batching(training.batch_size, training.micro_batch_tokens, 1, seed),
        1,
        lambda part: padded_tokens(items[index] for index in part),
    )
    trained.model.train()
    sums: dict[str, tuple[float, float]] = {}
    for step in plan:
        totals = objective.counts([items[index] for index in step.indices])
        for micro in step.micro_batches[0]:
            batch = collate([items[index] for index in micro], objective.parts)
            terms = objective.terms(trained, batch)
            sum(terms[name][0] / max(totals[name], 1) for name in totals).backward()
            for name, (value, count) in terms.items():
                top, bottom = sums.get(name, (0.0, 0.0))
                sums[name] = top + value.item(), bottom + count
        if training.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(trained.model.parameters(), training.clip_norm)
        adamw.step()
        adamw.zero_grad()
    return {name: top / max(bottom, 1) for name, (top, bottom) in sorted(sums.items())}


def _look(
    model: Any, epoch: int, rule: Any, before: Sequence[bool]
) -> tuple[EpochReading, list[bool]]:
    """What is recalled, and who leaves; the share of common tokens stands for BERTScore."""
    ids = [one.token_ids for one in given.FORGET]
    found = recall(TorchReader(model, EOS), given.FORGET, Counting(3, eos=EOS), "given")
    ends = [(one.continuation, own[given.PREFIX :]) for one, own in zip(found, ids, strict=True)]
    reading = EpochReading(
        epoch,
        tuple(len({*said} & {*truth}) / len({*truth}) for said, truth in ends),
        tuple(sentence_bleu(*(" ".join(map(str, end)) for end in both)) for both in ends),
        tuple(one.extraction for one in found),
        tuple(one.accuracy(given.PREFIX) for one in found),
    )
    sticky = before if rule.sticky else []
    return reading, leaving(reading, LEVELS, AVERAGE, rule.combine, sticky, rule.recall)


def _row(
    reading: EpochReading, gone: Sequence[bool], terms: dict[str, float], trained_on: int
) -> dict[str, Any]:
    return {
        **vars(reading),
        "terms": terms,
        "trained_on": trained_on,
        "forgotten": gone,
        "left_by": left_by(reading, LEVELS),
        "violation": violation(reading, AVERAGE),
    }
