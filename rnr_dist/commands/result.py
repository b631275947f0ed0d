"""What a person does with a finished run: compare before and after, export the result."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rnr_dist.config.reveal import Reveal
from rnr_dist.config.schema import Config
from rnr_dist.config.training import Workers
from rnr_dist.errors import InputError
from rnr_dist.generate.requests import Generate
from rnr_dist.run.directory import RunDir, read_json
from rnr_dist.run.progress import say
from rnr_dist.types import ModelRef, SamplingSettings


@dataclass(frozen=True)
class FinishedRun:
    """A run that has a result: its config, the model before and the one after."""

    run: RunDir
    config: Config
    before: ModelRef
    after: ModelRef


def open_result(path: Path, overrides: Sequence[str] = ()) -> FinishedRun:
    """A run that has released or unlearnt; `overrides` stand above its config.

    Raises InputError, also where the run's base checkpoint is gone or another one.
    """
    from rnr_dist.config.file import validate, with_overrides
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
    config = validate(with_overrides(read_json(run.marker), overrides), str(run.marker))
    find_base(run.path, config.model, config.trust_remote_code)
    [before] = [named.model for named in run_models(run) if named.kind == "reference"]
    after = [named.model for named in run_models(run) if named.kind == "step"][-1]
    for name in STAGES_WITH_MODELS:
        run.require_whole(name)
    require_content(before)
    require_content(after)
    return FinishedRun(run, config, before, after)


def compare_models(
    path: Path, prompt: str, n: int, masked: bool, overrides: Sequence[str] = ()
) -> None:
    """Print `n` continuations of the prompt by the model before and by the result.

    Beside them the oracle's scores, where the task has an oracle. Both models are asked of one
    engine as the run had them. overrides: of the run's config, as of `load_config`.
    """
    # Read when torch loads OpenMP, here and in the engine, which inherits it: threads else spin at
    # every barrier of every token, and where anything else needs their cores a few take minutes.
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")
    from rnr_dist.report.narrow import WholeTable
    from rnr_dist.report.table import literal
    from rnr_dist.run.shown import terminal
    from rnr_dist.score.oracles import make_oracle
    from rnr_dist.tasks.task import oracle_of

    found = open_result(path, overrides)
    config = _of_one_engine(found.config)
    request = _request(config, found.before.checkpoint, prompt, n)
    name = oracle_of(config)  # the task's data are not needed, and may be gone
    oracle = make_oracle(name) if name else None
    table = WholeTable("before", "score", "after", "score", show_lines=True)
    columns: list[list[object]] = []
    for texts in _continued(config, found, request):
        scores = oracle.score([prompt] * n, texts) if oracle else [None] * n
        columns.append([literal(mask(text) if masked else text) for text in texts])
        columns.append(["" if score is None else f"{score:.2f}" for score in scores])
    for row in zip(*columns, strict=True):
        table.add_row(*row)  # type: ignore[arg-type]
    terminal().print(table)


def _of_one_engine(config: Config) -> Config:
    """The config with one engine, and with nothing beside it that would want a place.

    A run of GPUs is compared on the cores of a machine that has none. Wherever the run leaves the
    choice on cores, transformers answers: for a few texts it is ready sooner than vLLM.
    """
    from rnr_dist.machine.cluster import this_node

    engines = config.engines.model_copy(update={"count": 1, "most": None})
    cores = len(os.sched_getaffinity(0))
    changed: dict[str, object] = {}
    if not os.environ.get("RAY_ADDRESS"):
        changed["cpus_each"] = min(cores, engines.cpus_each)
        if engines.gpus_each and not this_node(config).gpus:
            say(f"no GPU here, of which the run's engines have {engines.gpus_each:g}: on its cores")
            changed |= {"gpus_each": 0, "cpus_each": cores, "backend": "auto", "weights": "reload"}
    engines = engines.model_copy(update=changed)
    if not engines.gpus_each and engines.backend == "auto":
        engines = engines.model_copy(update={"backend": "transformers"})
    alone = {"workers": Workers(cpus_each=1), "reveal": Reveal()}
    return config.model_copy(update={"engines": engines, **alone})


def _request(config: Config, checkpoint: str, prompt: str, n: int) -> Generate:
    """What both models are asked. Raises InputError where the prompt holds nothing, or leaves no
    room behind it, and where this machine has none for an engine of the model."""
    from rnr_dist.commands.check import check_engine
    from rnr_dist.commands.lengths import Window
    from rnr_dist.data.encoding import encoded

    window = Window(config, Path(checkpoint))
    ids = encoded(window.tokenizer, prompt)
    if not prompt.strip() or not ids:
        raise InputError(f"compare: found the prompt {prompt!r}; expected a text to continue")
    sampling = config.evaluate.sampling
    drawn = SamplingSettings(
        n, 2 * sampling.max_tokens, sampling.temperature or 1.0, sampling.top_p
    )
    window.require(prompt, drawn.max_tokens, lambda: "compare: the prompt")
    check_engine(config, Path(checkpoint))
    return Generate(drawn, token_ids=ids)


def _continued(config: Config, found: FinishedRun, request: Generate) -> list[list[str]]:
    """Continuations by the model before and by the result."""
    from rnr_dist.bench import Bench

    plain = replace(found.before, terms=())
    with Bench(config) as bench:
        endpoint = bench.endpoint_of(plain)
        answers = [endpoint.run(model, [request])[0] for model in (found.before, found.after)]
    return [[one.text for one in answer.continuations] for answer in answers]


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
