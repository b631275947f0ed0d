"""What methods of a behaviour train on beside the forget set, drawn from the base model or read.

In: a task's contexts, the run's forget set, the base model. Out: alternatives (DPO), contrasts
(CMD), external pairs (PEM-external). Invariant: what is drawn is a file that is named by all that
it came from, so all methods, and a resumed run, see the same samples, and a changed setting others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from rnr_dist.bench import Bench
from rnr_dist.data.cleaning import cleaned
from rnr_dist.data.encoding import encoded, encoded_on
from rnr_dist.data.sources import load_contexts
from rnr_dist.errors import InputError
from rnr_dist.measures.continuations import Asked, sample_model
from rnr_dist.run.directory import RunDir, read_json, read_rows, write_json, write_rows
from rnr_dist.run.progress import say
from rnr_dist.tasks.prompts import as_asked
from rnr_dist.train.collate import Example
from rnr_dist.train.materials import Contrast
from rnr_dist.types import Context, Sample, SamplingSettings, Split, TokenSequence, digest

REWRITES = 5  # new words for a marked segment, of which those that hold the least stand
TOKENS_A_WORD = 2


class Target(Protocol):
    """What is asked of the task: its name, and the oracle score from which the target begins."""

    name: str
    target_above: float


def alternatives(
    task: Target,
    bench: Bench,
    run: RunDir,
    contexts: Sequence[Context],
    forget: Sequence[TokenSequence],
) -> dict[str, tuple[Example, ...]]:
    """The base's own responses to each forget sequence's prompt that hold less of the target, the
    best first, by the sequence's id; one that has none is left out.

    forget: one a row of the forget set, in its order. A context's k-th row begins with the k-th
    best, so that no response outweighs the others.
    """
    clean = by_context(_of_base(task, bench, run, contexts))
    rows = read_rows(run.path / "reveal" / "forget_set.parquet", Sample)
    met: dict[str, int] = {}
    found: dict[str, tuple[Example, ...]] = {}
    for row, sequence in zip(rows, forget, strict=True):
        better = [s for s in clean.get(row.context_id, ()) if s.score < row.score]
        if not better:
            continue
        place = met.get(row.context_id, 0) % len(better)
        met[row.context_id] = met.get(row.context_id, 0) + 1
        prompt = sequence.token_ids[: sequence.prefix_tokens]
        ordered = [*better[place:], *better[:place]]
        found.setdefault(sequence.id, tuple(response(bench, prompt, one) for one in ordered))
    return found


def contrasts(
    task: Target, bench: Bench, run: RunDir, contexts: Sequence[Context]
) -> tuple[Contrast, ...]:
    """Of each context that could be cleaned: the best continuation of its clean form, and all bad
    ones of it and of the context itself, the worst first, each behind the context."""
    wordings = _clean_texts(task, bench, run, contexts)
    clean = [replace(context, text=wordings[context.id]) for context in contexts]
    good = _of_base(task, bench, run, clean)
    best = by_context(good)
    every = by_context([*good, *_of_base(task, bench, run, contexts)])
    found = []
    for context in contexts:
        if context.id in best:
            prompt = encoded(bench.tokenizer, context.text)
            limit = bench.config.methods.negative_above
            bad = [one for one in reversed(every[context.id]) if one.score > limit]
            found.append(
                Contrast(
                    response(bench, prompt, best[context.id][0]),
                    tuple(response(bench, prompt, one) for one in bad),
                )
            )
    return tuple(found)


def external(bench: Bench) -> tuple[Example, ...]:
    """Pairs of `methods.external` whose reference holds the target, or was not scored.

    Raises InputError where there is none.
    """
    settings = bench.config.methods
    pairs = load_contexts(settings.external, "external")
    examples = []
    for pair in pairs:
        score = pair.reference_score
        if pair.reference and (score is None or score > settings.external_above):
            asked = as_asked(pair, bench.tokenizer, f"methods.external, {pair.text[:40]!r}")
            prompt = encoded(bench.tokenizer, asked.text)
            # Encoded apart: where a reference begins must be a border of tokens.
            space = "" if pair.messages else " "
            reference = encoded_on(bench.tokenizer, space + pair.reference.strip())
            examples.append(Example((*prompt, *reference), len(prompt)))
    if not examples:
        raise InputError(
            f"methods.external: none of {len(pairs)} pairs has a reference whose score is above "
            f"{settings.external_above:g}; expected some"
        )
    return tuple(examples)


def by_context(samples: Sequence[Sample]) -> dict[str, list[Sample]]:
    """Continuations that say something, of each context, those that hold the least first."""
    found: dict[str, list[Sample]] = {}
    for sample in sorted(samples, key=lambda sample: sample.score):
        if sample.text.strip():
            found.setdefault(sample.context_id, []).append(sample)
    return found


def response(bench: Bench, prompt: Sequence[int], sample: Sample) -> Example:
    """A continuation behind a prompt, to be learnt without its end token."""
    told = (token for token in sample.token_ids if token != bench.tokenizer.eos_token_id)
    return Example((*prompt, *told), len(prompt))


def _of_base(task: Target, bench: Bench, run: RunDir, contexts: Sequence[Context]) -> list[Sample]:
    """The base model's continuations of these contexts."""
    config = bench.config
    sampling = config.retain.response.model_copy(update={"n": config.methods.continuations})
    asked = Asked.bare(task.name, contexts)
    path = _file(bench, run, "continuations", [sampling.model_dump(), [*asked.prompts]])
    path = path.with_suffix(".parquet")
    if not path.exists():
        describe = f"the base model's continuations of {len(contexts)} contexts"
        write_rows(path, sample_model(bench, bench.base, asked, sampling, describe))
    return read_rows(path, Sample)


def _clean_texts(
    task: Target, bench: Bench, run: RunDir, contexts: Sequence[Context]
) -> dict[str, str]:
    """{context id: its text, in which what holds the target is written anew by the base model}."""
    words, words_of = bench.config.methods.segment_words, bench.config.retain.response
    known = [words, task.target_above, words_of.model_dump(), [one.text for one in contexts]]
    path = _file(bench, run, "cleaned", known).with_suffix(".json")
    if not path.exists():
        sampling = SamplingSettings(
            REWRITES, TOKENS_A_WORD * words, words_of.temperature, words_of.top_p
        )

        def marked(parts: list[str]) -> list[bool]:
            scores = bench.scorer.score([""] * len(parts), parts)
            return [bool(score > task.target_above) for score in scores]

        def rewrite(texts: list[str]) -> list[str]:
            return _rewritten(bench, texts, words, sampling)

        found = cleaned(contexts, words, marked, rewrite)
        changed = sum(found[context.id] != context.text.rstrip() for context in contexts)
        say(f"contrasts: segments written anew in {changed} of {len(contexts)} contexts")
        write_json(path, found)
    texts: dict[str, str] = read_json(path)
    return texts


def _rewritten(
    bench: Bench, texts: Sequence[str], words: int, sampling: SamplingSettings
) -> list[str]:
    """Of a few ways to go on from each text the best, as many words as a segment has."""
    contexts = [Context(str(place), text, Split.TRAIN, "") for place, text in enumerate(texts)]
    requests = Asked.bare("", contexts).requests(bench.tokenizer, sampling)
    answers = [
        [" ".join(choice.text.split()[:words]) for choice in answer.continuations]
        for answer in bench.endpoint.run(bench.base, requests)
    ]
    flat = [text for several in answers for text in several]
    scores = iter(bench.scorer.score([""] * len(flat), flat))
    best = []
    for several in answers:
        rated = [(float(next(scores)), text) for text in several]
        best.append(min((pair for pair in rated if pair[1]), default=(0.0, ""))[1])
    return best


def _file(bench: Bench, run: RunDir, name: str, inputs: list[Any]) -> Path:
    return run.stage("baselines") / f"{name}-{digest([bench.base.digest, inputs])[:8]}"
