"""The end of an outer iteration: the best instruction answers all of C (Algorithm 1, lines 15-18).

In: the history. Out: a fill, committed. Invariant: what enters the forget set is relevant enough
and says something.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np

from rnr_dist.measures.continuations import sample_model
from rnr_dist.reveal.duplicates import novel_rows
from rnr_dist.reveal.history import Fill, History
from rnr_dist.reveal.pulls import Evaluator, PullFailedError, pull_contexts
from rnr_dist.reveal.setting import Setting
from rnr_dist.run.progress import say
from rnr_dist.types import Pull


def best_pull(setting: Setting, history: History, outer: int) -> Pull | None:
    """The instruction of the highest score (line 16); None when nothing was evaluated.

    The best of many noisy scores is too high (winner's curse): the `recheck` best are evaluated
    again, on other contexts, and only those scores decide. In `default` mode an instruction fills
    the forget set once.
    """
    reveal = setting.reveal
    used = {fill.instruction for fill in history.fills} if reveal.mode == "default" else set()
    ranked = sorted(history.rescored(), key=lambda pull: -pull.score)
    first: dict[str, Pull] = {}
    for pull in ranked:
        if pull.instruction not in used:
            first.setdefault(pull.instruction, pull)
    leading = list(first.values())[: max(1, reveal.recheck)]
    if len(leading) < 2 or reveal.recheck < 2:
        return leading[0] if leading else None
    asyncio.run(_recheck(setting, history, leading, outer))
    names = {f"{pull.id}-fresh-{outer}": pull for pull in leading}
    read = [pull for pull in history.rechecks if pull.id in names]
    if not read:
        return leading[0]
    best = max(read, key=lambda pull: pull.score)
    return replace(best, id=names[best.id].id)


async def _recheck(setting: Setting, history: History, leading: list[Pull], outer: int) -> None:
    known = {pull.id for pull in history.rechecks}
    evaluator = Evaluator(setting, history, pull_contexts(setting, outer)[1], outer)

    async def read(pull: Pull) -> None:
        name = f"{pull.id}-fresh-{outer}"
        if name in known:
            return
        try:
            found = await evaluator.evaluate(pull.arm, pull.instruction, name)
        except PullFailedError as error:
            say(f"{pull.instruction!r} could not be evaluated again: {error}")
            return
        history.add_recheck(found.pull, found.samples, found.embeddings)

    await asyncio.gather(*(read(pull) for pull in leading))


def fill(setting: Setting, history: History, best: Pull, outer: int) -> Fill:
    """The best instruction's responses to all of C; what is relevant and new joins D (line 18)."""
    reveal = setting.reveal
    say(f"best instruction of outer iteration {outer + 1}: {best.instruction!r}")
    asked = setting.asked(best.instruction, setting.train_contexts, best.id)
    sampling = reveal.response.model_copy(update={"n": reveal.fill_per_context})
    describe = "filling the forget set"
    samples = sample_model(setting.bench, setting.bench.base, asked, sampling, describe)
    rows = [
        sample for sample in samples if sample.text.strip() and sample.score >= reveal.min_relevance
    ]
    embeddings = np.zeros((0, history.moment.dimension))
    if rows:
        embeddings = setting.bench.scorer.embed([row.text for row in rows])
    novel = novel_rows(embeddings, history.forget_embeddings(), reveal.near_duplicate)
    done = Fill(
        outer,
        best.arm,
        best.instruction,
        best.score,
        best.relevance,
        best.vendi,
        len(samples),
        len(novel),
        len(rows) - len(novel),
    )
    history.add_fill(done, [rows[position] for position in novel], embeddings[novel])
    return done
