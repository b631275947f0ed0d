"""What a person does with a finished run: compare before and after, export the result."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from rnr_dist.config.icu import MEMORISED, IcuConfig
from rnr_dist.config.schema import Config
from rnr_dist.errors import InputError
from rnr_dist.run.directory import RunDir, read, read_json
from rnr_dist.types import ModelRef, Score, Split


def open_result(path: Path) -> tuple[Config | IcuConfig, ModelRef, ModelRef]:
    """(config, model before, result) of a run that has released or unlearned.

    Raises InputError, also where the run's base checkpoint is gone or another one.
    """
    from rnr_dist.config.file import validate
    from rnr_dist.icu.forgotten import Unlearned
    from rnr_dist.recipes.reveal_and_release import released_models
    from rnr_dist.recipes.unlearn_sequences import models_of
    from rnr_dist.release.loop import RELEASED
    from rnr_dist.weights.checkpoints import find_base

    unlearned = path / "icu" / "result.json"
    if not ((path / RELEASED).exists() or unlearned.exists()):
        raise InputError(
            f"{path}: no released model; expected a run directory after `rnr release` or `rnr icu`"
        )
    config = validate(read_json(path / "config.json"), str(path / "config.json"))
    find_base(path, config.model, config.trust_remote_code)
    if isinstance(config, IcuConfig):
        return config, models_of(RunDir(path))[MEMORISED], read(unlearned, Unlearned).model
    models = released_models(RunDir(path))
    return config, models[0][1], models[-1][1]


def compare_models(path: Path, prompt: str, n: int, masked: bool) -> None:
    """Print `n` continuations of the prompt by the model before and by the result.

    Beside them the oracle's scores, where the task has an oracle.
    """
    import torch
    from rich.console import Console
    from rich.table import Table
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from rnr_dist.report.table import literal
    from rnr_dist.score.oracles import make_oracle
    from rnr_dist.weights.composition import add_to_model

    config, base, result = open_result(path)
    oracle = make_oracle(config.task.oracle) if isinstance(config, Config) else None
    tokenizer = AutoTokenizer.from_pretrained(base.checkpoint)
    inputs = tokenizer(prompt, return_tensors="pt")
    texts = {}
    for name, reference in (("before", base), ("after", result)):
        checkpoint = reference.checkpoint
        model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
        add_to_model(model, reference.terms)
        torch.manual_seed(config.seed)
        sampling = config.evaluate.sampling
        with torch.inference_mode():
            output = model.generate(
                **inputs,
                do_sample=True,
                top_p=sampling.top_p,
                temperature=sampling.temperature or 1.0,
                max_new_tokens=2 * sampling.max_tokens,
                num_return_sequences=n,
            )
        new = output[:, inputs["input_ids"].shape[1] :]
        texts[name] = tokenizer.batch_decode(new, skip_special_tokens=True)
    table = Table("before", "score", "after", "score", show_lines=True)
    scored = {
        name: [f"{score:.2f}" for score in oracle.score([prompt] * n, found)]
        if oracle
        else [""] * n
        for name, found in texts.items()
    }
    shown = {name: [mask(t) if masked else t for t in found] for name, found in texts.items()}
    for i in range(n):
        table.add_row(
            literal(shown["before"][i]),
            scored["before"][i],
            literal(shown["after"][i]),
            scored["after"][i],
        )
    Console().print(table)


def mask(text: str) -> str:
    """Offensive words as asterisks."""
    from better_profanity import profanity

    return profanity.censor(text)


def export_result(
    path: Path, adapter: Path | None, merged: Path | None, rank: int | None = None
) -> list[Path]:
    """Write the asked-for forms; returns their folders. Raises InputError when none is asked.

    `rank` cuts the adapter (`export_adapter`) and says what that costs; merged weights stay exact.
    """
    from rnr_dist.run.progress import say
    from rnr_dist.weights.export import ICU, RELEASE, export_adapter, export_merged

    if not adapter and not merged:
        raise InputError("export: found neither --adapter nor --merged, expected at least one")
    if rank is not None and not adapter:
        raise InputError(f"--rank: found {rank} without --adapter; expected both, or neither")
    config, _, result = open_result(path)
    # A hub model's adapter names the hub; other users' folders are not known there.
    base = config.model if result.checkpoint != config.model and "/" in config.model else None
    unlearned = isinstance(config, IcuConfig)
    if unlearned and not result.terms:
        base = config.model  # its checkpoint is the result's own
    told: dict[str, Any] = {
        "forgotten": "given sequences" if unlearned else config.task.name,
        "base": base,
        "scores": _sequence_scores(path) if unlearned else _release_scores(path),
        "method": ICU if unlearned else RELEASE,
    }
    written = []
    if adapter:
        _, truncation = export_adapter(result, adapter, rank=rank, **told)
        if truncation:
            say(f"rank {truncation.rank}: relative Frobenius error {truncation.error:.3g}")
        written.append(adapter)
    if merged:
        export_merged(result, merged, **told)
        written.append(merged)
    return written


def _release_scores(path: Path) -> dict[str, Score]:
    """The result's scores; none for a run without a report, which can be exported all the same."""
    from rnr_dist.report.summary import read_summary, summary_steps

    with contextlib.suppress(InputError):
        return summary_steps(read_summary(path / "summary.json"))[-1].scores
    return {}


def _sequence_scores(path: Path) -> dict[str, Score]:
    """The same of an ICU run. A context is a sequence, or a window of text for perplexities.

    `final`, since methods are tuned on other sequences.
    """
    from rnr_dist.icu.judging import Judgement
    from rnr_dist.stats import interval

    judged = path / "evaluate" / "icu.json"
    if not judged.exists():
        return {}
    return {
        name: Score(
            value=measure.value,
            n_contexts=measure.n_contexts,
            n_samples=int(measure.denominator.sum()),
            ci95=interval(measure),
            split=Split.FINAL,
        )
        for name, measure in read(judged, Judgement).measures.items()
    }
