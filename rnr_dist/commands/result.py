"""What a person does with a finished run: compare before and after, export the result."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rnr_dist.config.schema import Config
from rnr_dist.errors import InputError
from rnr_dist.run.directory import RunDir, read_json
from rnr_dist.types import ModelRef


@dataclass(frozen=True)
class FinishedRun:
    """A run that has a result: its config, the model before and the one after."""

    run: RunDir
    config: Config
    before: ModelRef
    after: ModelRef


def open_result(path: Path) -> FinishedRun:
    """A run that has released or unlearnt.

    Raises InputError, also where the run's base checkpoint is gone or another one.
    """
    from rnr_dist.config.file import validate
    from rnr_dist.tasks.evaluation import STAGES_WITH_MODELS, run_models
    from rnr_dist.weights.checkpoints import find_base, require_content

    run = RunDir(path)
    if run.marker.exists():
        run.require_layout()
    # A folder without a config is no run, whatever lies in it, as what a run has put aside.
    models = run_models(run) if run.marker.exists() else []
    if not any(named.kind == "step" for named in models):
        raise InputError(
            f"{path}: no released model; expected a run directory after `rnr release` or `rnr icu`"
        )
    config = validate(read_json(run.marker), str(run.marker))
    find_base(run.path, config.model, config.trust_remote_code)
    [before] = [named.model for named in run_models(run) if named.kind == "reference"]
    after = [named.model for named in run_models(run) if named.kind == "step"][-1]
    for name in STAGES_WITH_MODELS:
        run.require_whole(name)
    require_content(before)
    require_content(after)
    return FinishedRun(run, config, before, after)


def compare_models(path: Path, prompt: str, n: int, masked: bool) -> None:
    """Print `n` continuations of the prompt by the model before and by the result.

    Beside them the oracle's scores, where the task has an oracle.
    """
    # Read when torch loads OpenMP, whose threads else spin at every barrier of every token: where
    # anything else needs their cores a few tokens take minutes.
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")
    from rnr_dist.report.narrow import WholeTable
    from rnr_dist.report.table import literal
    from rnr_dist.run.shown import terminal
    from rnr_dist.score.oracles import make_oracle
    from rnr_dist.tasks.task import oracle_of

    found = open_result(path)
    ids = _prompt_ids(found, prompt)
    name = oracle_of(found.config)  # the task's data are not needed, and may be gone
    oracle = make_oracle(name) if name else None
    table = WholeTable("before", "score", "after", "score", show_lines=True)
    columns: list[list[object]] = []
    for model in (found.before, found.after):
        texts = _continued(found, model, ids, n)
        scores = oracle.score([prompt] * n, texts) if oracle else [None] * n
        columns.append([literal(mask(text) if masked else text) for text in texts])
        columns.append(["" if score is None else f"{score:.2f}" for score in scores])
    for row in zip(*columns, strict=True):
        table.add_row(*row)  # type: ignore[arg-type]
    terminal().print(table)


def _prompt_ids(found: FinishedRun, prompt: str) -> tuple[int, ...]:
    """The prompt's tokens. Raises InputError where there is none, or no room behind them."""
    from transformers import AutoConfig

    from rnr_dist.data.encoding import encoded

    loaded = {"trust_remote_code": found.config.trust_remote_code}
    ids = encoded(_tokenizer(found), prompt)
    count, new = len(ids), _new_tokens(found)
    if not prompt.strip() or not count:
        raise InputError(f"compare: found the prompt {prompt!r}; expected a text to continue")
    described = AutoConfig.from_pretrained(found.before.checkpoint, **loaded)
    window = getattr(described, "max_position_embeddings", None)
    if window and count + new > window:
        raise InputError(
            f"compare: found a prompt of {count} tokens; expected at most {window - new}, so that "
            f"{new} more fit into the model's {window}"
        )
    return ids


def _tokenizer(found: FinishedRun) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(
        found.before.checkpoint, trust_remote_code=found.config.trust_remote_code
    )


def _new_tokens(found: FinishedRun) -> int:
    return 2 * found.config.evaluate.sampling.max_tokens


def _continued(found: FinishedRun, model: ModelRef, ids: Sequence[int], n: int) -> list[str]:
    """Continuations by one model, in this process, in fp32, on as many cores as an engine has."""
    import torch
    from transformers import AutoModelForCausalLM

    from rnr_dist.weights.composition import add_to_model

    config, prompt_ids = found.config, torch.tensor([ids])
    if not config.engines.gpus_each:
        torch.set_num_threads(config.engines.cpus_each)
    loaded = AutoModelForCausalLM.from_pretrained(
        model.checkpoint, dtype=torch.float32, trust_remote_code=config.trust_remote_code
    ).eval()
    add_to_model(loaded, model.terms)
    torch.manual_seed(config.seed)
    sampling = config.evaluate.sampling
    with torch.inference_mode():
        output = loaded.generate(
            input_ids=prompt_ids,
            attention_mask=torch.ones_like(prompt_ids),
            do_sample=True,
            top_p=sampling.top_p,
            temperature=sampling.temperature or 1.0,
            max_new_tokens=_new_tokens(found),
            num_return_sequences=n,
        )
    new = output[:, prompt_ids.shape[1] :]
    texts: list[str] = _tokenizer(found).batch_decode(new, skip_special_tokens=True)
    return texts


def mask(text: str) -> str:
    """Offensive words as asterisks."""
    from better_profanity import profanity

    return profanity.censor(text)


def export_result(
    path: Path,
    adapter: Path | None,
    merged: Path | None,
    rank: int | None = None,
    push_to: str = "",
) -> list[str]:
    """Write the asked-for forms; returns their folders, and the address of what was pushed.

    `rank` cuts the adapter (`export_adapter`) and says what that costs; merged weights stay exact.
    `push_to` is a repository on the hub for the one form that is written. Raises InputError when
    none is asked for, or both with one repository to push to.
    """
    from rnr_dist.report.card import card_of
    from rnr_dist.run.progress import say
    from rnr_dist.weights.export import export_adapter, export_merged
    from rnr_dist.weights.hub import push, require_pushable

    if not adapter and not merged:
        raise InputError("export: found neither --adapter nor --merged, expected at least one")
    if rank is not None and not adapter:
        raise InputError(f"--rank: found {rank} without --adapter; expected both, or neither")
    if push_to:
        if adapter and merged:
            raise InputError("--push-to: found --adapter and --merged; expected one of them")
        require_pushable(push_to)
    found = open_result(path)
    card = card_of(found.run, found.config, found.after)
    written = []
    if adapter:
        _, truncation = export_adapter(found.after, adapter, card, rank)
        if truncation:
            say(f"rank {truncation.rank}: relative Frobenius error {truncation.error:.3g}")
        written.append(str(adapter))
    if merged:
        export_merged(found.after, merged, card)
        written.append(str(merged))
    if push_to:
        written.append(push(Path(written[0]), push_to))
    return written
