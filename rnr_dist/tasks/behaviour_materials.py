"""What methods train on to forget a behaviour: what reveal found, and what the base says itself.

In: the run's forget set, the task's contexts and passages. Out: `Materials`. Invariant: responses
keep the token ids that were generated, nothing is decoded and encoded again; what is drawn from the
model is a file, so all methods, and a resumed run, see the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from rnr_dist.bench import Bench
from rnr_dist.data.encoding import encoded
from rnr_dist.data.pairing import Pair, pair_up
from rnr_dist.errors import InputError
from rnr_dist.measures.continuations import Asked, sample_model
from rnr_dist.run.directory import RunDir, read_rows, write_rows
from rnr_dist.tasks import drawn
from rnr_dist.tasks.task import ContextKind
from rnr_dist.train.collate import Example
from rnr_dist.train.materials import Materials, Need
from rnr_dist.types import Context, Passage, Sample, Split, TokenSequence, digest

BEST_OF = 6  # answers drawn for each kept one where those that hold the least are wanted


class Behaved(drawn.Target, Protocol):
    """What is asked of the task beside its target: its contexts and its running text."""

    def contexts(self, split: Split, kind: ContextKind) -> list[Context]: ...

    def passages(self, split: Split) -> dict[str, list[Passage]]: ...


def behaviour_materials(
    task: Behaved, bench: Bench, run: RunDir, needs: frozenset[Need]
) -> Materials:
    """What is needed; everything else stays empty. Raises InputError where reveal was not done."""
    forget = forget_sequences(task, bench, run)
    kept = retained(task, bench, run) if needs & {"retain", "pairs"} else []
    contexts = task.contexts(Split.TRAIN, "forget")
    return Materials(
        forget=tuple(forget),
        retain=tuple(Example(one.token_ids, one.prefix_tokens) for one in kept),
        pairs=row_pairs(bench, run, forget, kept) if "pairs" in needs else {},
        alternatives=drawn.alternatives(task, bench, run, contexts, forget)
        if "alternatives" in needs
        else {},
        others=tuple(kept),
        external=drawn.external(bench) if "external" in needs else (),
        contrasts=drawn.contrasts(task, bench, run, contexts) if "contrasts" in needs else (),
        seed=bench.config.seed,
    )


def forget_sequences(task: Behaved, bench: Bench, run: RunDir) -> list[TokenSequence]:
    """One sequence a row of the forget set; its prompt is the context or the whole query.

    The end token is left out: ending a text is not what shall be forgotten.
    """
    path = run.path / "reveal" / "forget_set.parquet"
    if not path.exists():
        raise InputError(f"{path}: not there; expected the forget set of `rnr reveal`")
    bare = {context.id: context.text for context in task.contexts(Split.TRAIN, "forget")}
    whole = bench.config.release.forget_prompt == "query"
    found = []
    for row in read_rows(path, Sample):
        prompt = encoded(bench.tokenizer, row.prompt if whole else bare[row.context_id])
        found.append(_sequence(row, prompt, bench.tokenizer.eos_token_id))
    return found


def retained(task: Behaved, bench: Bench, run: RunDir) -> list[TokenSequence]:
    """The base's own answers, learnt behind their contexts, and whole passages (prefix 0)."""
    path = run.stage("release") / "retain_answers.parquet"
    if not path.exists():
        write_rows(path, retain_answers(task, bench))
    rows = read_rows(path, Sample)
    kept = [_sequence(row, encoded(bench.tokenizer, row.prompt), None) for row in rows]
    if bench.config.retain.passages:
        for passage in task.passages(Split.RETAIN)["in_domain"]:
            ids = encoded(bench.tokenizer, passage.text)
            kept.append(TokenSequence(passage.id, passage.domain, ids, passage.text))
    return kept


def retain_answers(task: Behaved, bench: Bench) -> list[Sample]:
    """The base model's own answers that are worth keeping, none of which holds the target.

    `retain` contexts, and by config those answers to the `train` contexts that hold the least of
    it, so that the model also keeps how to go on from those.
    """
    retain = bench.config.retain
    kept: list[Sample] = []
    if retain.responses_per_context:
        asked = Asked.bare(task.name, task.contexts(Split.RETAIN, "retain"))
        sampling = retain.response.model_copy(update={"n": retain.responses_per_context})
        describe = "the base model's answers to contexts that are retained"
        kept += sample_model(bench, bench.base, asked, sampling, describe)
    if retain.mild_per_context:
        asked = Asked.bare(task.name, task.contexts(Split.TRAIN, "forget"))
        each = retain.mild_per_context
        sampling = retain.response.model_copy(update={"n": each * BEST_OF})
        describe = "the base model's answers that hold the least of the target"
        answers = sample_model(bench, bench.base, asked, sampling, describe)
        for best in drawn.by_context(answers).values():
            kept += best[:each]
    return [row for row in kept if row.text.strip() and row.score <= task.target_above]


def row_pairs(
    bench: Bench, run: RunDir, forget: Sequence[TokenSequence], kept: Sequence[TokenSequence]
) -> dict[str, tuple[TokenSequence, ...]]:
    """The nearest retained texts of each forget sequence (ICU's Eq. 2), by its id."""
    path = run.stage("baselines") / "pairs.parquet"
    if not path.exists():
        settings, own = bench.config.pairing, len(forget)
        vectors = bench.scorer.embed([one.text for one in [*forget, *kept]])
        write_rows(path, pair_up(forget, kept, (vectors[:own], vectors[own:]), settings))
    by_id = {one.id: one for one in kept}
    pairs: dict[str, tuple[TokenSequence, ...]] = {}
    for pair in read_rows(path, Pair):
        pairs[pair.forget] = (*pairs.get(pair.forget, ()), by_id[pair.learn])
    return pairs


def _sequence(row: Sample, prompt: Sequence[int], without: Any) -> TokenSequence:
    """A sample behind its prompt, without the token `without`."""
    response = [token for token in row.token_ids if token != without]
    ids = (*prompt, *response)
    return TokenSequence(digest(list(ids)), row.group, ids, row.text, len(prompt))
