"""One evaluation of an instruction: generate, score, embed (Algorithm 1, lines 8-12).

In: an instruction and contexts. Out: what `History` commits. Invariant: an evaluation has the same
id on any machine and after any crash, and counts only when every response has a usable score.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rnr_dist.generate.pool import EngineDiedError
from rnr_dist.measures.continuations import answers_of, sample_rows, settings_of
from rnr_dist.reveal.history import History
from rnr_dist.reveal.setting import Setting
from rnr_dist.score.batching import Gate, Gather
from rnr_dist.score.oracles import usable_scores
from rnr_dist.types import Context, ModelRef, Pull, Sample, SamplingSettings, digest


class PullFailedError(RuntimeError):
    """An evaluation that gave no usable scores; its text says why. Others may do better."""


@dataclass(frozen=True)
class Evaluated:
    """A finished evaluation: its pull, its sample rows, the (n, d) embeddings of what was said."""

    pull: Pull
    samples: list[Sample]
    embeddings: np.ndarray


def pull_id(
    instruction: str,
    contexts: Sequence[Context],
    sampling: SamplingSettings,
    model: ModelRef,
    outer: int,
) -> str:
    """Deterministic: the same evaluation has the same id on any machine and after any crash."""
    drawn = [sampling.n, sampling.max_tokens, sampling.temperature, sampling.top_p]
    return digest([instruction, [c.id for c in contexts], drawn, model.digest, outer])


def pull_contexts(setting: Setting, outer: int) -> tuple[list[Context], list[Context]]:
    """Two draws of `reveal` contexts, each fixed within an outer iteration.

    Arms are evaluated on the first; the best of them again on the second, which shares none with
    the first as long as there are enough.
    """
    generator = np.random.default_rng([setting.bench.config.seed, outer])
    contexts = list(setting.reveal_contexts)
    size = min(setting.reveal.contexts_per_pull, len(contexts))
    order = generator.permutation(len(contexts))
    fresh = order[size : 2 * size]
    fresh = np.concatenate([fresh, order[: size - len(fresh)]])
    evaluated, again = ([contexts[i] for i in sorted(part)] for part in (order[:size], fresh))
    return evaluated, again


class Evaluator:
    """Evaluates instructions on one draw of contexts, many side by side in one event loop."""

    def __init__(self, setting: Setting, history: History, contexts: Sequence[Context], outer: int):
        self.setting, self.history, self.contexts = setting, history, contexts
        self.outer = outer
        self.sampling = settings_of(setting.reveal.response)
        scorer = setting.bench.scorer

        async def ask_oracle(answers: list[tuple[str, str]]) -> np.ndarray:
            return await scorer.submit_score(*map(list, zip(*answers, strict=True)))

        async def ask_embedder(texts: list[str]) -> np.ndarray:
            return await scorer.submit_embed(texts)

        self._oracle, self._embedder = Gather(ask_oracle), Gather(ask_embedder)
        self._gate, self._under_way = Gate(), 0

    def name(self, instruction: str) -> str:
        """Id of this instruction's pull."""
        return pull_id(
            instruction, self.contexts, self.sampling, self.setting.bench.base, self.outer
        )

    async def evaluate(self, arm: int, instruction: str, name: str) -> Evaluated:
        """The model's responses under an instruction, scored under the forget set of now.

        Raises PullFailedError when generator, oracle or embedder raised or returned nonsense, and
        what they raised when they are gone for good.
        """
        from ray.exceptions import RayActorError

        setting, contexts = self.setting, self.contexts
        asked = setting.asked(instruction, contexts, name)
        requests = asked.requests(setting.bench.tokenizer, self.sampling)
        self._under_way += 1
        try:
            responses = await setting.bench.endpoint.submit(setting.bench.base, requests)
            answers = answers_of(contexts, responses)
            told = [text for _, text in answers if text.strip()]
            await self._gate.passed(self._enough)
            scores, embeddings = await asyncio.gather(self._oracle(answers), self._embed(told))
            scores = usable_scores(scores, len(answers))
            embeddings = usable_rows(embeddings, len(told))
        except (EngineDiedError, RayActorError):
            raise
        except Exception as error:
            cause = getattr(error, "cause", error)  # Ray wraps what an actor raised
            sentence = str(cause).strip().splitlines()[-1:] or [""]
            raise PullFailedError(f"{type(cause).__name__}: {sentence[0]}") from error
        finally:
            self._under_way -= 1
        samples = sample_rows(asked, responses, scores, setting.bench.scorer.version)
        # An empty response is none of the target, whatever an oracle makes of it.
        relevance = float(np.mean([s.score if s.text.strip() else 0.0 for s in samples]))
        score, diversity = self.history.score(embeddings, relevance)
        pull = Pull(
            name,
            self.outer,
            arm,
            instruction,
            relevance,
            diversity,
            score,
            len(self.history.fills),
            len(samples),
        )
        return Evaluated(pull, samples, embeddings)

    @property
    def _enough(self) -> int:
        """Pulls that wait for each other: most of the spare ones, while the rest feed the
        generators, and none when an outer iteration ends."""
        ending = self._under_way <= self.setting.held
        return 1 if ending else 3 * self.setting.spare // 4

    async def _embed(self, told: list[str]) -> np.ndarray:
        return await self._embedder(told) if told else np.zeros((0, 0))


def usable_rows(embeddings: np.ndarray, expected: int) -> np.ndarray:
    """What an embedder returned, or a ValueError that says what is wrong with it."""
    found = np.asarray(embeddings)
    if found.ndim != 2 or len(found) != expected:
        raise ValueError(f"the embedder returned shape {found.shape}, expected ({expected}, d)")
    if not np.isfinite(found).all():
        raise ValueError("the embedder returned numbers that are not finite")
    return found
