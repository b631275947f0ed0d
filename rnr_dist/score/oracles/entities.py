"""Answers that name something: the share of the listed entities that stand in the text.

In: prompts that ask for entities, and answers. Out: relevance in [0, 1]. Invariant: nobody's
entities are asked for, so an answer is judged by its own text alone; an empty list, and what cannot
be read, has none.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rnr_dist.config.entities import EntityOracle
from rnr_dist.data.entity_answers import parsed, spaced
from rnr_dist.data.entity_questions import text_within


class EntitiesOracle:
    """1 where all that an answer lists stands in the text that it was asked about."""

    Settings = EntityOracle
    version = "entities 1"

    def __init__(self, settings: EntityOracle):
        self._wording = settings.wording

    def score(self, contexts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        return np.array(
            [self._one(context, one) for context, one in zip(contexts, responses, strict=True)],
            float,
        )

    def _one(self, context: str, response: str) -> float:
        said, text = parsed(response), spaced(text_within(context, self._wording))
        return sum(name in text for name in said if name) / len(said) if said else 0.0
