"""One evaluation of an instruction: generate, score, embed (Algorithm 1, lines 8-12).

In: an instruction and contexts. Out: what `History` commits. Invariant: an evaluation has the same
id on any machine and after any crash, and counts only when every response has a usable score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ray.exceptions import RayActorError

from rnr_dist.evaluate.continuations import continuation_requests, sample_rows, settings_of
from rnr_dist.generate.pool import EngineDiedError
from rnr_dist.generate.requests import Response
from rnr_dist.reveal.history import History
from rnr_dist.reveal.setting import Setting
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
    generator = np.random.default_rng([setting.config.seed, outer])
    contexts = list(setting.reveal_contexts)
    size = min(setting.config.reveal.contexts_per_pull, len(contexts))
    order = generator.permutation(len(contexts))
    fresh = order[size : 2 * size]
    fresh = np.concatenate([fresh, order[: size - len(fresh)]])
    evaluated, again = ([contexts[i] for i in sorted(part)] for part in (order[:size], fresh))
    return evaluated, again


async def evaluate(
    setting: Setting,
    history: History,
    arm: int,
    instruction: str,
    contexts: Sequence[Context],
    outer: int,
    name: str,
) -> Evaluated:
    """Responses of the model under an instruction, scored under the forget set of now.

    Raises PullFailedError when generator, oracle or embedder raised or returned nonsense, and what
    they raised when they are gone for good.
    """
    sampling = settings_of(setting.config.reveal.response)
    prompts = setting.prompts(instruction, contexts)
    requests = continuation_requests(prompts, setting.tokenizer, sampling)
    try:
        responses = await setting.pool.submit(setting.model, requests)
        asked, texts = _answers(contexts, responses)
        told = [text for text in texts if text.strip()]
        scoring = setting.scorer.submit_score(asked, texts)
        embedding = setting.scorer.submit_embed(told) if told else None
        scores = usable_scores(await scoring, len(texts))
        embeddings = usable_rows(await embedding, len(told)) if embedding else np.zeros((0, 0))
    except (EngineDiedError, RayActorError):
        raise
    except Exception as error:
        cause = getattr(error, "cause", error)  # Ray wraps what an actor raised
        sentence = str(cause).strip().splitlines()[-1:] or [""]
        raise PullFailedError(f"{type(cause).__name__}: {sentence[0]}") from error
    samples = sample_rows(
        contexts,
        prompts,
        responses,
        scores,
        setting.scorer.version,
        setting.config.task.name,
        instruction,
        name,
    )
    # An empty response is none of the target, whatever an oracle makes of it.
    relevance = float(np.mean([s.score if s.text.strip() else 0.0 for s in samples]))
    score, diversity = history.score(embeddings, relevance)
    version = len(history.fills)
    pull = Pull(name, outer, arm, instruction, relevance, diversity, score, version, len(samples))
    return Evaluated(pull, samples, embeddings)


def _answers(
    contexts: Sequence[Context], responses: Sequence[Response]
) -> tuple[list[str], list[str]]:
    """Texts of (context, continuation), continuation by continuation."""
    pairs = [
        (context.text, choice.text)
        for context, response in zip(contexts, responses, strict=True)
        for choice in response.continuations
    ]
    return [asked for asked, _ in pairs], [text for _, text in pairs]


def usable_scores(scores: np.ndarray, expected: int) -> np.ndarray:
    """What an oracle returned, or a ValueError that says what is wrong with it."""
    found = np.asarray(scores, dtype=np.float64)
    if found.shape != (expected,):
        raise ValueError(f"the oracle returned shape {found.shape}, expected ({expected},)")
    bad = ~((found >= 0) & (found <= 1))
    if bad.any():
        row = int(bad.argmax())
        raise ValueError(f"the oracle returned {found[row]} for response {row}, expected 0 to 1")
    return found


def usable_rows(embeddings: np.ndarray, expected: int) -> np.ndarray:
    """What an embedder returned, or a ValueError that says what is wrong with it."""
    found = np.asarray(embeddings)
    if found.ndim != 2 or len(found) != expected:
        raise ValueError(f"the embedder returned shape {found.shape}, expected ({expected}, d)")
    if not np.isfinite(found).all():
        raise ValueError("the embedder returned numbers that are not finite")
    return found
