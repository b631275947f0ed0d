"""Algorithm 1: m outer iterations of a NeuralUCB search over soft prompts fill the forget set.

In: contexts, the pool, the scorer. Out: the forget set D_self-gen and every pull. Invariant: each
finished pull is in the event log exactly once, and a search that is started again goes on there.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from threadpoolctl import threadpool_limits

from rnr_dist.config.reveal import Reveal
from rnr_dist.data.encoding import encoded
from rnr_dist.errors import InputError
from rnr_dist.reveal.bandit_actor import BanditDiedError, Taken, Told, remote_bandit
from rnr_dist.reveal.fill import best_pull, fill
from rnr_dist.reveal.history import Fill, History, Move
from rnr_dist.reveal.pulls import (
    Evaluated,
    Evaluator,
    PullFailedError,
    pull_contexts,
)
from rnr_dist.reveal.setting import Setting, Table
from rnr_dist.reveal.table import arm_table
from rnr_dist.run.progress import progress_bar, say
from rnr_dist.types import Pull

ATTEMPTS = 2  # of a pull whose scores are not usable
BANDIT_RESTARTS = 3
TOGETHER = 16  # arms that are asked for at once


class AsyncBandit(Protocol):
    """A bandit as the search sees it: `BanditActor`'s methods, to await."""

    async def exchange(self, told: Sequence[Told], wanted: int) -> list[Taken]: ...
    async def restore(self, arm: int, pick: np.ndarray) -> None: ...
    async def observe(self, arm: int, score: float) -> None: ...
    async def ban(self, arm: int) -> None: ...
    async def next_outer(self, scores: dict[int, float], warm_start: int) -> None: ...


@dataclass(frozen=True)
class Arrival:
    """What came of a pull: the arm's row, the bandit's pick, and a new evaluation, the pull of an
    earlier equal one, or a failed move."""

    row: int
    pick: np.ndarray
    found: Evaluated | Pull | Move


@dataclass(frozen=True)
class Listeners:
    """Who wants to hear of a running search: pulls (number, figures) as they arrive, fills."""

    on_pull: Callable[[int, dict[str, float]], None] = lambda number, figures: None
    on_fill: Callable[[Fill], None] = lambda fill: None


class Flight:
    """Pulls that are under way. Those that land are met without a look at the others, which
    `asyncio.wait` would take for each."""

    def __init__(self) -> None:
        self._flying: set[asyncio.Task[Arrival]] = set()
        self._landed: asyncio.Queue[asyncio.Task[Arrival]] = asyncio.Queue()

    def __len__(self) -> int:
        return len(self._flying)

    def begin(self, pull: Coroutine[None, None, Arrival]) -> None:
        self._flying.add(task := asyncio.create_task(pull))
        task.add_done_callback(self._landed.put_nowait)

    async def landed(self) -> list[asyncio.Task[Arrival]]:
        """All that have landed since; waits for one."""
        found = [await self._landed.get()]
        found += [self._landed.get_nowait() for _ in range(self._landed.qsize())]
        self._flying -= set(found)
        return found

    async def cancel(self) -> None:
        for task in self._flying:
            task.cancel()
        await asyncio.gather(*self._flying, return_exceptions=True)


BanditStart = Callable[[np.ndarray, Reveal, int], contextlib.AbstractContextManager[AsyncBandit]]


def search(
    setting: Setting, listeners: Listeners, start_bandit: BanditStart = remote_bandit
) -> History:
    """Run (or finish) Algorithm 1, or let the config's own prompts take the search's place."""
    reveal = setting.reveal
    check_windows(setting)
    dimension = setting.bench.scorer.embed(["the embedder's dimension"]).shape[1]
    history = History(setting.folder, reveal, dimension)
    if reveal.prompts:
        return _answer_prompts(setting, history, listeners)
    table = arm_table(setting)
    if len(table.arms) < reveal.budget:
        say(f"{len(table.arms)} different instructions: fewer than reveal.budget {reveal.budget}")
    for restarts_left in reversed(range(BANDIT_RESTARTS + 1)):
        try:
            with start_bandit(table.features, reveal, setting.bench.config.seed) as bandit:
                _outer_iterations(setting, table, history, bandit, listeners)
            break
        except BanditDiedError:
            if not restarts_left:
                raise
            say("the bandit's actor died; a new one goes on from the event log")
    return history


def _outer_iterations(
    setting: Setting, table: Table, history: History, bandit: AsyncBandit, listeners: Listeners
) -> None:
    """Lines 3-19, from where the history ends."""
    reveal = setting.reveal
    asyncio.run(replay(history, bandit, reveal.warm_start))
    for outer in range(len(history.fills), reveal.outer_iterations):
        # Scoring's matrices are small: a second thread would wait for cores that engines keep busy.
        with threadpool_limits(1, user_api="blas"):
            asyncio.run(inner_loop(setting, table, history, bandit, outer, listeners))
        best = best_pull(setting, history, outer)
        if best is None:
            raise InputError(
                f"reveal.arms: all {len(table.arms)} different instructions have filled the "
                f"forget set before outer iteration {outer + 1}; expected more arms or fewer "
                "reveal.outer_iterations"
            )
        listeners.on_fill(fill(setting, history, best, outer))
        asyncio.run(_next_outer(history, bandit, reveal.warm_start, outer + 1))


def _answer_prompts(setting: Setting, history: History, listeners: Listeners) -> History:
    """Direct prompting, without a bandit (paper appendix A.2): each prompt fills D once."""
    contexts = pull_contexts(setting, 0)[0]
    for outer, prompt in enumerate(setting.reveal.prompts[len(history.fills) :]):
        outer += len(history.fills)
        name = f"prompt-{outer}"
        evaluator = Evaluator(setting, history, contexts, outer)
        found = asyncio.run(evaluator.evaluate(-1, prompt, name))
        listeners.on_fill(fill(setting, history, found.pull, outer))
    return history


async def inner_loop(
    setting: Setting,
    table: Table,
    history: History,
    bandit: AsyncBandit,
    outer: int,
    listeners: Listeners,
) -> None:
    """Lines 5-14: `budget` pulls, several in flight, each committed as it arrives.

    Raises InputError when too many pulls fail.
    """
    reveal = setting.reveal
    evaluator = Evaluator(setting, history, pull_contexts(setting, outer)[0], outer)
    flight, live = Flight(), Live(history, outer)

    async def pull(row: int, pick: np.ndarray) -> Arrival:
        found = await _found(evaluator, row, table.arms[row].instruction)
        return Arrival(row, pick, found)

    def commit(arrival: Arrival) -> Told:
        told = _committed(history, outer, arrival)
        if isinstance(arrival.found, Evaluated):
            listeners.on_pull(len(history.moves), live.figures(arrival.found, len(flight)))
        return told

    with progress_bar(f"outer iteration {outer + 1}: pulls", reveal.budget) as advance_to:
        told: list[Told] = []
        exhausted = False
        try:
            while True:
                room = min(setting.at_once, reveal.budget - history.spent(outer)) - len(flight)
                wanted = 0 if exhausted else max(0, room)
                if told or wanted:
                    asked = min(wanted, TOGETHER)
                    taken = await bandit.exchange(told, asked)
                    told, exhausted = [], exhausted or len(taken) < asked
                    for one in taken:
                        flight.begin(pull(*one))
                if wanted > TOGETHER and not exhausted:
                    continue  # the first generators need not wait for the last one's arm
                if not len(flight):
                    break
                # All that arrived while others were dealt with is committed and told at once.
                finished = await flight.landed()
                errors = [error for task in finished if (error := task.exception())]
                with history.together():
                    told = [commit(task.result()) for task in finished if not task.exception()]
                for error in errors:
                    raise error
                if any(score is None for _, score in told):
                    _check_failures(setting, history, outer)
                advance_to(history.spent(outer), live.line(len(flight)))
        finally:
            await flight.cancel()
    if exhausted and history.spent(outer) < reveal.budget:
        say(f"all {len(table.arms)} instructions were tried: {history.spent(outer)} pulls")


def _committed(history: History, outer: int, arrival: Arrival) -> Told:
    """Commit what came of a pull; what the bandit is told of it."""
    row, found = arrival.row, arrival.found
    if isinstance(found, Move):
        history.add_failure(outer, row, found.pull_id, found.cause)
        return row, None
    if isinstance(found, Pull):
        history.add_repeat(found, row, arrival.pick)
        return row, found.score
    # D may not have grown since: an outer iteration's pulls all share one.
    history.add_pull(found.pull, found.samples, found.embeddings, arrival.pick)
    return row, found.pull.score


async def _found(evaluator: Evaluator, row: int, instruction: str) -> Evaluated | Pull | Move:
    """A new evaluation, the pull of an earlier equal one, or a failed move."""
    name = evaluator.name(instruction)
    if known := evaluator.history.get(name):
        return known
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return await evaluator.evaluate(row, instruction, name)
        except PullFailedError as error:
            say(f"pull {name} of {instruction!r} failed ({attempt} of {ATTEMPTS}): {error}")
            cause = str(error)
    return Move(evaluator.outer, row, name, None, cause)


def _check_failures(setting: Setting, history: History, outer: int) -> None:
    reveal = setting.reveal
    failed = [move for move in history.failures if move.outer == outer]
    if len(failed) > reveal.max_failed_share * reveal.budget:
        raise InputError(
            f"oracle {setting.task.oracle}: {len(failed)} of {reveal.budget} pulls of outer "
            f"iteration {outer + 1} failed twice (the last: {failed[-1].cause}); expected at most "
            f"reveal.max_failed_share {reveal.max_failed_share:g}"
        )


def check_windows(setting: Setting) -> None:
    """Raises InputError for a context that leaves the model no room for its response."""
    config = setting.bench.config
    sampling = config.reveal.response
    room = config.engines.max_model_len - config.reveal.instruction_tokens - sampling.max_tokens
    room -= 16  # the words around instruction and context
    for context in [*setting.reveal_contexts, *setting.train_contexts]:
        tokens = len(encoded(setting.bench.tokenizer, context.text))
        if tokens > room:
            raise InputError(
                f"context {context.id} ({context.text[:40]!r}...): has {tokens} tokens; expected "
                f"at most {room}, so that instruction and response fit engines.max_model_len "
                f"{config.engines.max_model_len}"
            )


class Live:
    """What a person watching wants to know of an outer iteration."""

    def __init__(self, history: History, outer: int):
        self._outer = outer
        self._best = max((p.score for p in history.pulls if p.outer == outer), default=0.0)
        self._began, self._tokens = time.monotonic(), 0

    def figures(self, told: Evaluated, in_flight: int) -> dict[str, float]:
        """Figures after one more pull, for the tracker."""
        self._tokens += sum(len(sample.token_ids) for sample in told.samples)
        self._best = max(self._best, told.pull.score)
        return {
            "outer": self._outer,
            "score": told.pull.score,
            "best_score": self._best,
            "relevance": told.pull.relevance,
            "diversity": told.pull.vendi,
            "tokens_per_second": self._speed,
            "in_flight": in_flight,
        }

    def line(self, in_flight: int) -> str:
        return f"best {self._best:.3f}, {self._speed:.0f} tokens/s, {in_flight} in flight"

    @property
    def _speed(self) -> float:
        return self._tokens / max(time.monotonic() - self._began, 1e-9)


async def replay(history: History, bandit: AsyncBandit, warm_start: int) -> None:
    """Bring a new bandit to the state that the event log describes, without any training."""
    closed = len(history.fills)

    async def tell(moves: Sequence[Move]) -> None:
        for move in moves:
            if move.score is None:
                await bandit.ban(move.arm)
            else:
                await bandit.restore(move.arm, history.pick(move.pull_id))
                await bandit.observe(move.arm, move.score)

    await tell([move for move in history.moves if move.outer < closed])
    if closed:
        await _next_outer(history, bandit, warm_start, closed)
    await tell([move for move in history.moves if move.outer >= closed])


async def _next_outer(history: History, bandit: AsyncBandit, warm_start: int, outer: int) -> None:
    """Lines 3-4 of outer iteration `outer`: all earlier pulls under the forget set of now."""
    scores = {pull.arm: pull.score for pull in history.rescored() if pull.outer < outer}
    await bandit.next_outer(scores, warm_start)
