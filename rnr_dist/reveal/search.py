"""Algorithm 1: m outer iterations of a NeuralUCB search over soft prompts fill the forget set.

In: contexts, the pool, the scorer. Out: the forget set D_self-gen and every pull. Invariant: each
finished pull is in the event log exactly once, and a search that is started again goes on there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray

from rnr_dist.config import Config
from rnr_dist.evaluate.continuations import (
    continuation_requests,
    sample_model,
    settings_of,
    to_samples,
)
from rnr_dist.generate.cluster_pool import PoolHandle
from rnr_dist.report.progress import progress_bar, say
from rnr_dist.reveal.arms import ArmTable
from rnr_dist.reveal.bandit_actor import start_bandit
from rnr_dist.reveal.history import Fill, History
from rnr_dist.reveal.instructions import (
    arm_features,
    decode_requests,
    input_embeddings,
    instruction_of,
    meta_prompt,
    one_line,
    query,
)
from rnr_dist.run_dir import read_json, read_rows, replacing, write_json, write_rows
from rnr_dist.score.actors import Scorer
from rnr_dist.types import Arm, Context, ModelRef, Pull, Sample, SamplingSettings, digest

DEMONSTRATION_DRAWS = 4  # responses of a context from which the most relevant demonstrates


@dataclass(frozen=True)
class Setting:
    """All that a search works with."""

    config: Config
    model: ModelRef
    pool: PoolHandle
    scorer: Scorer
    tokenizer: Any
    reveal_contexts: Sequence[Context]
    train_contexts: Sequence[Context]
    folder: Path


@dataclass(frozen=True)
class Table:
    """The decoded arms: one an instruction, with its bandit features (arms x hidden)."""

    arms: list[Arm]
    features: np.ndarray


def search(setting: Setting, on_fill: Callable[[Fill], None]) -> History:
    """Run (or finish) Algorithm 1; `on_fill` hears of each outer iteration."""
    reveal = setting.config.reveal
    table = arm_table(setting)
    dimension = setting.scorer.embed(["the embedder's dimension"]).shape[1]
    history = History(setting.folder, reveal, dimension)
    bandit = _replayed_bandit(setting, table, history)
    for outer in range(reveal.outer_iterations):
        if outer < len(history.fills):
            continue
        _inner_loop(setting, table, history, bandit, outer)
        fill = _fill(setting, table, history, outer)
        on_fill(fill)
        _next_outer(bandit, history, reveal.warm_start, outer + 1)
    ray.kill(bandit)
    return history


def arm_table(setting: Setting) -> Table:
    """Soft prompts decoded to instructions by the model itself, once a run.

    Arms that decode to the same instruction ask the same question: the first stands for all.
    """
    path, features_path = setting.folder / "arms.parquet", setting.folder / "features.npy"
    if path.exists() and features_path.exists():
        return Table(read_rows(path, Arm), np.load(features_path))
    config, reveal = setting.config, setting.config.reveal
    meta_tokens = setting.tokenizer.encode(meta_prompt(demonstrations(setting)))
    embeddings = input_embeddings(Path(setting.model.checkpoint))
    scale = float(embeddings.std()) if reveal.soft_scale == "embedding" else None
    arms = ArmTable(
        reveal.arms,
        reveal.sobol_dimension,
        reveal.soft_tokens,
        embeddings.shape[1],
        config.seed,
        scale,
    )
    requests = decode_requests(arms, embeddings, meta_tokens, reveal.instruction_tokens)
    responses = setting.pool.run(setting.model, requests, "decoding instructions")
    instructions = [instruction_of(response) for response in responses]
    first: dict[str, int] = {}
    for number, instruction in enumerate(instructions):
        if instruction:
            first.setdefault(instruction.casefold().rstrip("."), number)
    say(f"{len(first)} different instructions of {len(arms)} soft prompts")
    kept = sorted(first.values())
    gpus = 1 if config.workers.gpus_each else 0
    task = ray.remote(arm_features).options(num_cpus=0, num_gpus=gpus)
    features = ray.get(
        task.remote(
            setting.model.checkpoint,
            arms,
            kept,
            meta_tokens,
            config.engines.dtype,
            config.trust_remote_code,
        )
    )
    rows = [
        Arm(number, tuple(map(float, arms.coordinates[number])), instructions[number])
        for number in kept
    ]
    with replacing(features_path) as aside, aside.open("wb") as handle:
        np.save(handle, features)
    write_rows(path, rows)
    return Table(rows, features)


def demonstrations(setting: Setting) -> list[tuple[str, str]]:
    """The base model's own most relevant (context, response) pairs, never references."""
    path = setting.folder / "demonstrations.json"
    if path.exists():
        return [tuple(pair) for pair in read_json(path)]
    reveal = setting.config.reveal
    sampling = settings_of(reveal.response.model_copy(update={"n": DEMONSTRATION_DRAWS}))
    samples = sample_model(
        setting.pool,
        setting.scorer,
        setting.model,
        setting.reveal_contexts,
        setting.tokenizer,
        sampling,
        setting.config.task.name,
        "the model's own responses",
    )
    best: dict[str, Sample] = {}
    for sample in sorted(samples, key=lambda sample: -sample.score):
        if sample.text.strip():
            best.setdefault(sample.context_id, sample)
    pairs = [(one_line(s.prompt), one_line(s.text)) for s in best.values()]
    write_json(path, pairs[: reveal.demonstrations])
    bare = float(np.mean([sample.score for sample in samples]))
    say(f"relevance of the model's responses without an instruction: {bare:.3f}")
    return pairs[: reveal.demonstrations]


def pull_contexts(setting: Setting, outer: int) -> list[Context]:
    """The contexts that arms are evaluated on, fixed within an outer iteration."""
    generator = np.random.default_rng([setting.config.seed, outer])
    contexts = list(setting.reveal_contexts)
    size = min(setting.config.reveal.contexts_per_pull, len(contexts))
    return [contexts[i] for i in sorted(generator.choice(len(contexts), size, replace=False))]


def _inner_loop(setting: Setting, table: Table, history: History, bandit: Any, outer: int) -> None:
    """Lines 5-14: `budget` pulls, several in flight, each committed as it arrives."""
    reveal = setting.config.reveal
    contexts = pull_contexts(setting, outer)
    sampling = settings_of(reveal.response)
    done = sum(pull.outer == outer for pull in history.pulls)
    flying: dict[Any, int] = {}
    with progress_bar(f"outer iteration {outer + 1}: pulls", reveal.budget) as advance_to:
        while True:
            while done + len(flying) < reveal.budget and len(flying) < reveal.in_flight:
                row = ray.get(bandit.take.remote())
                if row is None:
                    break
                prompts = _prompts(setting, table.arms[row].instruction, contexts)
                requests = continuation_requests(prompts, setting.tokenizer, sampling)
                flying[setting.pool.submit(setting.model, requests)] = row
            if not flying:
                if done < reveal.budget:
                    say(f"all {len(table.arms)} different instructions were tried")
                return
            ready, _ = ray.wait(list(flying), num_returns=1)
            row = flying.pop(ready[0])
            try:
                responses = ray.get(ready[0])
            except Exception:
                ray.get(bandit.withdraw.remote(row))
                raise  # the pool has tried again already; what is finished is in the log
            pull = _commit(setting, table.arms[row], row, history, outer, contexts, responses)
            ray.get(bandit.observe.remote(row, pull.score))
            done += 1
            advance_to(done)


def _commit(
    setting: Setting,
    arm: Arm,
    row: int,
    history: History,
    outer: int,
    contexts: Sequence[Context],
    responses: Sequence[Any],
) -> Pull:
    """Score a pull (lines 9-12) and write it to the event log."""
    name = pull_id(arm, contexts, settings_of(setting.config.reveal.response), setting.model, outer)
    prompts = _prompts(setting, arm.instruction, contexts)
    samples = to_samples(
        contexts,
        prompts,
        responses,
        setting.scorer,
        setting.config.task.name,
        arm.instruction,
        name,
    )
    embeddings = setting.scorer.embed([sample.text for sample in samples])
    relevance = float(np.mean([sample.score for sample in samples]))
    score, diversity = history.score(embeddings, relevance)
    version = len(history.fills)
    pull = Pull(
        name, outer, row, arm.instruction, relevance, diversity, score, version, len(samples)
    )
    history.add_pull(pull, samples, embeddings)
    return pull


def pull_id(
    arm: Arm, contexts: Sequence[Context], sampling: SamplingSettings, model: ModelRef, outer: int
) -> str:
    """Deterministic: the same evaluation has the same id on any machine and after any crash."""
    drawn = [sampling.n, sampling.max_tokens, sampling.temperature, sampling.top_p]
    return digest([arm.instruction, [c.id for c in contexts], drawn, model.digest, outer])


def _fill(setting: Setting, table: Table, history: History, outer: int) -> Fill:
    """Lines 15-18: the best evaluated instruction answers all of C; what is relevant joins D."""
    reveal = setting.config.reveal
    used = {fill.arm for fill in history.fills}
    best = max(
        (pull for pull in history.rescored() if pull.arm not in used), key=lambda pull: pull.score
    )
    arm = table.arms[best.arm]
    say(f"best instruction of outer iteration {outer + 1}: {arm.instruction!r}")
    prompts = _prompts(setting, arm.instruction, setting.train_contexts)
    sampling = settings_of(reveal.response.model_copy(update={"n": reveal.fill_per_context}))
    requests = continuation_requests(prompts, setting.tokenizer, sampling)
    responses = setting.pool.run(setting.model, requests, "filling the forget set")
    samples = to_samples(
        setting.train_contexts,
        prompts,
        responses,
        setting.scorer,
        setting.config.task.name,
        arm.instruction,
        best.id,
    )
    rows = [
        sample for sample in samples if sample.text.strip() and sample.score >= reveal.min_relevance
    ]
    dimension = history.moment.dimension
    embeddings = (
        setting.scorer.embed([row.text for row in rows]) if rows else np.zeros((0, dimension))
    )
    fill = Fill(
        outer,
        best.arm,
        arm.instruction,
        best.score,
        best.relevance,
        best.vendi,
        len(samples),
        len(rows),
    )
    history.add_fill(fill, rows, embeddings)
    return fill


def _prompts(setting: Setting, instruction: str, contexts: Sequence[Context]) -> list[str]:
    style = setting.config.reveal.query
    return [query(instruction, context.text, style) for context in contexts]


def _replayed_bandit(setting: Setting, table: Table, history: History) -> Any:
    """A bandit in the state that the event log describes."""
    bandit = start_bandit(table.features, setting.config.reveal, setting.config.seed)
    closed = len(history.fills)

    def replay(pulls: Sequence[Pull]) -> None:
        for pull in pulls:
            ray.get(bandit.dispatch.remote(pull.arm))
            ray.get(bandit.observe.remote(pull.arm, pull.score))

    replay([pull for pull in history.pulls if pull.outer < closed])
    if closed:
        _next_outer(bandit, history, setting.config.reveal.warm_start, closed)
    replay([pull for pull in history.pulls if pull.outer >= closed])
    return bandit


def _next_outer(bandit: Any, history: History, warm_start: int, outer: int) -> None:
    """Lines 3-4 of outer iteration `outer`: all earlier pulls under the forget set of now."""
    scores = {pull.arm: pull.score for pull in history.rescored() if pull.outer < outer}
    ray.get(bandit.next_outer.remote(scores, warm_start))
