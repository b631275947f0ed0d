"""What measuring and unlearning sequences cost, against the ways of the reference code.

Eight fictitious records of 100 tokens are memorised by the embedded model, then half forgotten;
each part runs in a process of its own on these two models. The last line is one JSON object.

    python benchmarks/icu.py              all parts
    python benchmarks/icu.py el epoch     some of them
    python benchmarks/icu.py --models DIR where the two models are kept, or are already
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.silent import Silent  # noqa: E402
from rnr_dist.config.file import validate  # noqa: E402
from rnr_dist.config.schema import Config  # noqa: E402
from rnr_dist.config.sources import SequenceSource  # noqa: E402
from rnr_dist.types import ModelRef, TokenSequence  # noqa: E402

RECORDS, T0, T, N = 8, 50, 100, 10
NAMES = ("memorised", "forgotten")


def config() -> Config:
    content = {
        "name": "bench",
        "engines": {"count": 1, "cpus_each": 2},
        "workers": {"cpus_each": 2, "dtype": "float32"},
        "task": {"name": "extraction", "prefix_tokens": T0, "max_tokens": T, "n": N},
    }
    return validate(content, "benchmarks/icu.py")


def records(tokenizer: Any, first: int) -> list[TokenSequence]:
    from rnr_dist.data.sequences import load_sequences

    return load_sequences(SequenceSource(first=first, count=RECORDS), tokenizer, T0, T)


def base() -> ModelRef:
    from rnr_dist.weights.checkpoints import resolve_model

    return resolve_model(config().model)


def tokenizer_of(model: ModelRef) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model.checkpoint)


def model_at(folder: Path) -> ModelRef:
    from rnr_dist.weights.checkpoints import checkpoint_digest

    return ModelRef(str(folder), checkpoint_digest(folder))


def models(folder: Path) -> dict[str, float]:
    """Make the two models: fit until every token is the arg max, then ascend to MA .5."""
    import torch
    from transformers import AutoModelForCausalLM

    start = base()
    tokenizer = tokenizer_of(start)
    sequences = [sequence.token_ids for sequence in records(tokenizer, 0)]
    width = max(map(len, sequences))
    ids = torch.zeros(len(sequences), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = torch.tensor(sequence)
        mask[row, : len(sequence)] = 1
    labels = ids.masked_fill(mask == 0, -100)
    model = AutoModelForCausalLM.from_pretrained(start.checkpoint, dtype=torch.float32)
    model.gradient_checkpointing_enable()
    reached = 0.0
    for name, sign, rate, met in (
        ("memorised", 1, 3e-4, lambda share: share >= 0.995),
        ("forgotten", -1, 2e-5, lambda share: share <= 0.5),
    ):
        optimiser = torch.optim.Adam(model.parameters(), lr=rate, betas=(0.9, 0.98))
        for _ in range(60):
            output = model(input_ids=ids, attention_mask=mask, labels=labels, use_cache=False)
            right = output.logits[:, T0 - 1 : -1].argmax(-1) == labels[:, T0:]
            reached = float(right[labels[:, T0:] >= 0].float().mean())
            if met(reached):
                break
            optimiser.zero_grad()
            (sign * output.loss).backward()
            optimiser.step()
        assert met(reached), f"{name}: MA {reached}"
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
        print(f"{name}: MA over t >= t0 {reached:.3f}", flush=True)
    return {}


def el(folder: Path) -> dict[str, float]:
    """EL and MA for all prefixes in one engine: the shortcut against a generation a prefix."""
    import numpy as np

    from rnr_dist.bench import Bench
    from rnr_dist.measures.memorisation import Counting, overlap, recall
    from rnr_dist.measures.pool_reader import PoolReader

    found = {}
    with Bench(config()) as bench:
        known = records(bench.tokenizer, 0)
        sequences = [sequence.token_ids for sequence in known]
        eos = bench.tokenizer.eos_token_id
        for name in NAMES:
            reader = PoolReader(bench.endpoint, model_at(folder / name))
            reader.matches(sequences[:1])  # its weights are there
            began = time.perf_counter()
            short = recall(reader, known, Counting(N, eos=eos))
            shortcut = time.perf_counter() - began
            began = time.perf_counter()
            starts = [
                (ids, length, len(ids) - length)
                for ids in sequences
                for length in range(1, len(ids) - N + 1)
            ]
            answers = iter(reader.greedy(starts))
            by_prefix = []
            for ids in sequences:
                own = [next(answers) for _ in range(1, len(ids) - N + 1)]
                cut = [a[: a.index(eos) + 1] if eos in a else a for a in own]
                values = [overlap(a, ids[i:], N) for i, a in enumerate(cut, 1)]
                by_prefix.append(np.array(values))
            loop = time.perf_counter() - began
            unequal = [
                int((np.abs(one.overlaps - other) > 1e-12).sum())
                for one, other in zip(short, by_prefix, strict=True)
            ]
            suffix = "" if name == "memorised" else "_forgotten"
            found |= {
                f"el_speedup{suffix}": loop / shortcut,
                f"el_seconds{suffix}": shortcut,
                f"el_loop_seconds{suffix}": loop,
                f"el_unequal_prefixes{suffix}": sum(unequal),
                f"el_largest_difference{suffix}": max(
                    abs(one.extraction - float(other.mean()))
                    for one, other in zip(short, by_prefix, strict=True)
                ),
                f"mean_el{suffix}": float(np.mean([one.extraction for one in short])),
                f"mean_ma{suffix}": float(np.mean([one.accuracy() for one in short])),
            }
    found["el_prefixes"] = float(len(starts))
    return found


def epoch(folder: Path) -> dict[str, float]:
    """An epoch of ICU and its refinement in the worker, the same in the reference's way, memory."""
    from rnr_dist.bench import Bench
    from rnr_dist.config.training import CausalObjective, Training
    from rnr_dist.icu.epochs import train_by_epochs
    from rnr_dist.icu.job import NO_RULE, Counted, Ending, EpochPlan, Leaving
    from rnr_dist.icu.leaving import Limits
    from rnr_dist.measures.memorisation import Counting
    from rnr_dist.measures.similarity import scorer_folder
    from rnr_dist.methods.icu import Icu, IcuSettings
    from rnr_dist.train.collate import Example, texts
    from rnr_dist.train.materials import Materials
    from rnr_dist.train.trainings import Trainings

    known = model_at(folder / "memorised")
    tokenizer = tokenizer_of(known)
    forget, pool = records(tokenizer, 0), records(tokenizer, 300)
    pairs = {one.id: (other,) for one, other in zip(forget, pool, strict=True)}
    shared: dict[str, Any] = {
        "parameters": "full",
        "schedule": "constant",
        "warmup_share": 0,
        "learning_rate": 1e-5,
        "batch_size": RECORDS,
    }
    # As the paper has it, and the reference: what else is retained is no part of either's epoch.
    icu = Training(objective=IcuSettings(retain=0), **shared)
    # The same sequences in as many passes and one step, by cross-entropy alone.
    plain = Training(objective=CausalObjective(), **{**shared, "batch_size": 2 * RECORDS})
    with tempfile.TemporaryDirectory() as name, Bench(config()) as bench:
        trainings = Trainings(bench, Path(name), Silent())
        items = Icu().items("icu", Materials(tuple(forget), pairs=pairs), icu)
        never = Limits(0, 0, 0, 0)
        counted = Counted(Counting(N, eos=tokenizer.eos_token_id))
        scorer = scorer_folder("embedded:minilm")
        leaving = Leaving(NO_RULE, (never,) * len(forget), scorer)
        plan = EpochPlan(forget, counted, Ending("forgotten", never, 1), leaving)
        ours = train_by_epochs(trainings, "icu", items, icu, known, plan)
        both = texts(Example(one.token_ids, 0) for one in [*forget, *pool])
        memorising = EpochPlan(forget, counted, Ending("memorised", Limits(0, 0, 2, 1), 1))
        tuned = train_by_epochs(trainings, "plain", both, plain, known, memorising)
    before, after = ours.epochs
    reading = after["reading_seconds"] - before["reading_seconds"]
    command = [sys.executable, __file__, "--models", str(folder), "reference"]
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    theirs = json.loads(output.strip().splitlines()[-1])
    return {
        "epoch_speedup": theirs["reference_seconds"] / (after["seconds"] + reading),
        "epoch_training_seconds": after["seconds"],
        "epoch_reading_seconds": reading,
        **theirs,
        "memory_ratio": ours.summary["peak_rss_mib"] / tuned.summary["peak_rss_mib"],
        "icu_peak_mib": ours.summary["peak_rss_mib"],
        "plain_peak_mib": tuned.summary["peak_rss_mib"],
    }


def reference(folder: Path) -> dict[str, float]:
    """The reference code's way, in a process of its own: written anew, as well as it allows.

    theta0's full softmax of the pairs kept; two forward passes a batch; a batched generation a
    prefix length for EL, whose first tokens are MA; BERTScore's model loaded for the batch.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from rnr_dist.measures.memorisation import overlap
    from rnr_dist.measures.similarity import Similarity, scorer_folder

    known = model_at(folder / "memorised")
    tokenizer = tokenizer_of(known)
    tokenizer.padding_side = "left"
    model = AutoModelForCausalLM.from_pretrained(known.checkpoint, dtype=torch.float32)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-5, betas=(0.9, 0.98))
    scorer = scorer_folder("embedded:minilm")

    def batch(sequences: Sequence[TokenSequence]) -> dict[str, Any]:
        width = max(len(one.token_ids) for one in sequences)
        ids = torch.zeros(len(sequences), width, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, one in enumerate(sequences):
            ids[row, : len(one.token_ids)] = torch.tensor(one.token_ids)
            mask[row, : len(one.token_ids)] = 1
        return {
            "input_ids": ids,
            "attention_mask": mask,
            "labels": ids.masked_fill(mask == 0, -100),
        }

    forget, learn = records(tokenizer, 0), records(tokenizer, 300)
    forget_batch, learn_batch = batch(forget), batch(learn)
    with torch.inference_mode():
        kept = model(**learn_batch).logits.softmax(-1)
    kept = kept.clone()

    began = time.perf_counter()
    loss = -model(**forget_batch).loss
    output = model(**learn_batch)
    divergence = -(kept * output.logits.log_softmax(-1)).sum(-1).mean()
    loss = loss + 0.5 * output.loss + divergence
    loss.backward()
    optimiser.step()
    optimiser.zero_grad()
    del output, loss, divergence
    training = time.perf_counter() - began
    with torch.inference_mode():
        overlaps = []
        for length in range(T0, T - N + 1):
            rows = [one for one in forget if len(one.token_ids) - N >= length]
            prefixes = torch.tensor([one.token_ids[:length] for one in rows])
            said = model.generate(
                prefixes,
                attention_mask=torch.ones_like(prefixes),
                max_new_tokens=T - length,
                do_sample=False,
                pad_token_id=tokenizer.eos_token_id,
            )[:, length:]
            overlaps += [
                overlap(tuple(new.tolist()), one.token_ids[length:], N)
                for new, one in zip(said, rows, strict=True)
            ]
            if length == T0:
                texts = tokenizer.batch_decode(said, skip_special_tokens=True)
        truth = [tokenizer.decode(one.token_ids[T0:]) for one in forget]
        similarity = Similarity(scorer)
        similarity.bertscore(texts, truth)
        similarity.bleu(texts, truth)
    return {
        "reference_seconds": time.perf_counter() - began,
        "reference_training_seconds": training,
    }


PARTS = {"models": models, "el": el, "epoch": epoch, "reference": reference}


def main(names: list[str], folder: Path) -> dict[str, float]:
    figures: dict[str, float] = {}
    missing = [name for name in NAMES if not (folder / name / "model.safetensors").exists()]
    for name in (["models"] if missing else []) + names:
        command = [sys.executable, __file__, "--models", str(folder), "--alone", name]
        output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
        found = json.loads(output.strip().splitlines()[-1])
        print(name, found, flush=True)
        figures |= found
    return figures


if __name__ == "__main__":
    arguments = sys.argv[1:]
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        if "--models" in arguments:
            at = arguments.index("--models")
            place = Path(arguments[at + 1]).absolute()
            arguments = arguments[:at] + arguments[at + 2 :]
        if "--alone" in arguments or arguments == ["reference"]:
            print(json.dumps(PARTS[arguments[-1]](place)))
        else:
            print(json.dumps(main(arguments or ["el", "epoch"], place)))
