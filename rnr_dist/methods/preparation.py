"""What methods need from the run, drawn and read once: continuations, external pairs, the budget.

In: the run's reveal and release, the engines. Out: `Materials`, `Budget`. Invariant: what is drawn
from the base model is a file, so all methods, and a resumed run, see the same samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rnr_dist.bench import Machine
from rnr_dist.config.schema import Config
from rnr_dist.data.sources import load_contexts
from rnr_dist.measures.continuations import continuation_requests, sample_model, settings_of
from rnr_dist.methods.materials import Materials, detoxified
from rnr_dist.methods.runner import Budget, trained_tokens
from rnr_dist.release.loop import RELEASED, Released
from rnr_dist.run.directory import RunDir, read, read_json, read_rows, write_json, write_rows
from rnr_dist.run.progress import say
from rnr_dist.tasks.toxicity import CHALLENGING, TaskData
from rnr_dist.train.collate import Example
from rnr_dist.types import Context, Sample, SamplingSettings, Split

REWRITES = 5  # new words for a toxic segment, of which the least toxic stand
TOKENS_A_WORD = 2


def gather(
    config: Config,
    data: TaskData,
    run: RunDir,
    machine: Machine,
    forget: Sequence[Example],
    retain: Sequence[Example],
    folder: Path,
) -> Materials:
    """All methods' materials; only what the configured methods need is drawn."""
    settings = config.baselines
    contexts = data.of(Split.TRAIN, CHALLENGING)
    wanted = set(settings.methods)
    continuations: list[Sample] = []
    cleaned: list[Sample] = []
    if wanted & {"dpo", "cmd"}:
        continuations = _drawn(config, machine, contexts, folder / "continuations.parquet")
    if "cmd" in wanted:
        path = folder / "detoxified.json"
        if not path.exists():
            write_json(path, _clean_contexts(config, machine, contexts))
        texts = read_json(path)
        clean = [replace(context, text=texts[context.id]) for context in contexts]
        cleaned = _drawn(config, machine, clean, folder / "cleaned.parquet")
    return Materials(
        settings,
        machine.tokenizer,
        forget,
        read_rows(run.path / "reveal" / "forget_set.parquet", Sample),
        retain,
        contexts,
        load_contexts(settings.external, "external") if "pem_external" in wanted else (),
        continuations,
        cleaned,
    )


def spent(run: RunDir) -> Budget:
    """What R&R took: tokens of every adapter of Eq. 1, candidates of every weight and the front."""
    released = read(run.path / RELEASED, Released)
    trained = {term.adapter.digest: term.adapter for term in released.steps[-1].model.terms}
    first = [trial for trial in released.trials if not trial["draw"]]
    # The front's first point is the model that Eq. 1 ended with: no candidate of its own.
    front = max(0, len(released.front) - 1)
    return Budget(sum(map(trained_tokens, trained.values())), len(first) + front)


def _drawn(
    config: Config, machine: Machine, contexts: Sequence[Context], path: Path
) -> list[Sample]:
    """The base model's continuations of these contexts."""
    if not path.exists():
        sampling = config.retain.response.model_copy(update={"n": config.baselines.continuations})
        samples = sample_model(
            machine.pool,
            machine.scorer,
            machine.base,
            contexts,
            machine.tokenizer,
            settings_of(sampling),
            config.task.name,
            f"the base model's continuations: {path.stem}",
        )
        write_rows(path, samples)
    return read_rows(path, Sample)


def _clean_contexts(
    config: Config, machine: Machine, contexts: Sequence[Context]
) -> dict[str, str]:
    words, above = config.baselines.segment_words, config.task.toxic_above
    response = config.retain.response
    sampling = SamplingSettings(
        REWRITES, TOKENS_A_WORD * words, response.temperature, response.top_p
    )

    def toxic(parts: list[str]) -> list[bool]:
        scores = machine.scorer.score([""] * len(parts), parts)
        return [bool(score > above) for score in scores]

    def rewrite(texts: list[str]) -> list[str]:
        """The least toxic of a few ways to go on, as many words as a segment has."""
        requests = continuation_requests(texts, machine.tokenizer, sampling)
        answers = [
            [" ".join(choice.text.split()[:words]) for choice in response.continuations]
            for response in machine.pool.run(machine.base, requests)
        ]
        flat = [text for several in answers for text in several]
        scores = iter(machine.scorer.score([""] * len(flat), flat))
        best = []
        for several in answers:
            rated = [(float(next(scores)), text) for text in several]
            best.append(min((pair for pair in rated if pair[1]), default=(0.0, ""))[1])
        return best

    clean = detoxified(contexts, words, toxic, rewrite)
    changed = sum(clean[context.id] != context.text.rstrip() for context in contexts)
    say(f"CMD: toxic segments rewritten in {changed} of {len(contexts)} contexts")
    return clean
